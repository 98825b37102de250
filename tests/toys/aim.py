"""A one-step game of two agents with continuous actions and a known optimum."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Array, Box, EnvSpec, TimeStep

BEST = (0.5, -0.3)
"""The best joint action, worth 0."""


class Config(config.Model):
    """The game has no options."""


def make(cfg: Config) -> base.Env:
    """reward = -(a_0 - 0.5)^2 - (a_1 + 0.3)^2 - (a_0 - 0.5) (a_1 + 0.3)."""
    del cfg
    spec = EnvSpec(
        name="aim",
        agent_names=("a", "b"),
        agent_groups=(0, 0),
        actions=Box(1, low=-2.0, high=2.0),
        obs_shapes=((1,), (1,)),
        obs_shape=(1,),
        state_size=1,
        max_steps=1,
    )

    def show() -> TimeStep:
        return base.first_timestep(
            obs=jnp.ones((2, 1)),
            state=jnp.ones((1,)),
            avail_actions=jnp.asarray(spec.actions.exists),
        )

    def reset(key: Array) -> tuple[Any, TimeStep]:
        del key
        return (), show()

    def step(key: Array, env_state: Any, actions: Array) -> tuple[Any, TimeStep]:
        del key
        x, y = actions[0, 0] - BEST[0], actions[1, 0] - BEST[1]
        reward = -(x**2) - y**2 - x * y
        return env_state, replace(show(), reward=reward, terminated=jnp.ones((), bool))

    return base.team_env(spec, reset, step)
