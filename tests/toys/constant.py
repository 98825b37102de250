"""One agent with one action and constant rewards: its value shows how episode ends are treated."""

import jax
import jax.numpy as jnp

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Array, Discrete, EnvSpec, TimeStep


class Config(config.Model):
    """Options."""

    length: config.PositiveInt = 5
    """Steps per episode."""
    truncates: bool = True
    """Whether episodes end by a time limit."""
    kinds: config.PositiveInt = 1
    """Each episode draws a reward per step from 0, 1, ..., kinds - 1 (1 if there is one kind), and
    shows it.
    """


def make(cfg: Config) -> base.Env:
    """obs = one-hot of the episode's kind."""
    spec = EnvSpec(
        name="constant",
        agent_names=("a",),
        agent_groups=(0,),
        actions=Discrete(1),
        obs_shapes=((cfg.kinds,),),
        obs_shape=(cfg.kinds,),
        state_size=cfg.kinds,
        max_steps=cfg.length,
    )

    def show(kind: Array, step: Array, reward: Array) -> TimeStep:
        seen = jax.nn.one_hot(kind, cfg.kinds)
        over = step >= cfg.length
        return TimeStep(
            obs=seen[None],
            state=seen,
            avail_actions=jnp.ones((1, 1), bool),
            reward=reward,
            terminated=over & (not cfg.truncates),
            truncated=over & cfg.truncates,
            metrics={},
        )

    def reset(key: Array) -> tuple[tuple[Array, Array], TimeStep]:
        kind = jax.random.randint(key, (), 0, cfg.kinds)
        step = jnp.zeros((), jnp.int32)
        return (kind, step), show(kind, step, jnp.zeros(()))

    def step(
        key: Array, state: tuple[Array, Array], actions: Array
    ) -> tuple[tuple[Array, Array], TimeStep]:
        del key, actions
        kind, step = state
        reward = kind.astype(jnp.float32) if cfg.kinds > 1 else jnp.ones(())
        return (kind, step + 1), show(kind, step + 1, reward)

    return base.team_env(spec, reset, step)
