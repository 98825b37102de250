"""A repeated game of two agents with opposed rewards, given by the first agent's payoff."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Array, Discrete, EnvSpec, TimeStep

PAYOFF = ((2.0, 1.0), (-1.0, 0.0))
"""Of the first agent; its row 0 and the second agent's column 1 are optimal, with value 1."""


class Config(config.Model):
    """Options."""

    steps: config.PositiveInt = 1
    """Rounds per episode."""


def make(cfg: Config) -> base.Env:
    """One state; its index 0 is the observation."""
    spec = EnvSpec(
        name="duel",
        agent_names=("row", "column"),
        agent_groups=(0, 1),
        actions=Discrete(2),
        obs_shapes=((1,), (1,)),
        obs_shape=(1,),
        state_size=1,
        max_steps=cfg.steps,
        scored_agents=(0,),
        n_states=1,
        zero_sum=True,
    )

    def show() -> TimeStep:
        return base.first_timestep(
            obs=jnp.zeros((2, 1)), state=jnp.zeros((1,)), avail_actions=jnp.ones((2, 2), bool)
        )

    def reset(key: Array) -> tuple[Any, TimeStep]:
        del key
        return jnp.zeros((), jnp.int32), show()

    def step(key: Array, env_state: Array, actions: Array) -> tuple[Any, TimeStep]:
        del key
        paid = jnp.asarray(PAYOFF)[actions[0], actions[1]]
        reward = jnp.stack([paid, -paid])
        over = env_state + 1 >= cfg.steps
        return env_state + 1, replace(show(), reward=reward, terminated=over)

    return base.Env(spec, reset, step, team_reward=None)
