"""Image observations: an agent is rewarded for choosing the row of its bright cell."""

import jax
import jax.numpy as jnp

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Array, Discrete, EnvSpec, TimeStep

HEIGHT, WIDTH = 3, 4


class Config(config.Model):
    """Options."""

    length: config.PositiveInt = 3
    """Steps per episode; the images change at every step."""


def make(cfg: Config) -> base.Env:
    """obs bool images (HEIGHT, WIDTH, 2) as f32: a bright cell in channel 0, channel 1 all ones; an
    action per row; reward: the share of agents that are right.
    """
    shape = (HEIGHT, WIDTH, 2)
    spec = EnvSpec(
        name="image",
        agent_names=("a", "b"),
        agent_groups=(0, 0),
        actions=Discrete(HEIGHT),
        obs_shapes=(shape, shape),
        obs_shape=shape,
        state_size=2,
        max_steps=cfg.length,
        obs_bounds=(0.0, 1.0),
    )

    def show(key: Array, step: Array, reward: Array) -> tuple[dict[str, Array], TimeStep]:
        cells = jax.random.randint(key, (2,), 0, HEIGHT * WIDTH)
        bright = jax.nn.one_hot(cells, HEIGHT * WIDTH).reshape(2, HEIGHT, WIDTH)
        rows = cells // WIDTH
        return {"rows": rows, "step": step}, TimeStep(
            obs=jnp.stack([bright, jnp.ones_like(bright)], axis=-1),
            state=rows.astype(jnp.float32),
            avail_actions=jnp.ones((2, HEIGHT), bool),
            reward=reward,
            terminated=step >= cfg.length,
            truncated=jnp.zeros((), bool),
            metrics={},
        )

    def reset(key: Array) -> tuple[dict[str, Array], TimeStep]:
        return show(key, jnp.zeros((), jnp.int32), jnp.zeros(()))

    def step(
        key: Array, state: dict[str, Array], actions: Array
    ) -> tuple[dict[str, Array], TimeStep]:
        return show(key, state["step"] + 1, jnp.mean(actions == state["rows"]))

    return base.team_env(spec, reset, step)
