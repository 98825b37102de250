"""An agent outside the package: a leaky memory, which averages what it has seen so far."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from qmix_jax import config
from qmix_jax.agents import base
from qmix_jax.types import Array, EnvSpec


class Config(base.Config):
    """Options of the leaky memory, besides those of all agents."""

    half_life: config.PositiveFloat = 4.0
    """Env steps in which the memory of an observation halves, before learning."""


class _Network(nn.Module):
    hidden: int
    width: int
    half_life: float

    @nn.compact
    def __call__(self, carry: Array, x: Array, reset: Array) -> tuple[Array, Array, Array]:
        embedding = nn.relu(nn.Dense(self.hidden)(x))  # [T, B, N, H]
        decay = 0.5 ** (1.0 / self.half_life)
        logit = nn.initializers.constant(jnp.log(decay / (1.0 - decay)))
        decay = nn.sigmoid(self.param("decay", logit, (1, 1, self.hidden)))

        def step(memory: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            embedding, reset = inputs
            memory = jnp.where(reset[:, None, None], 0.0, memory)  # a new episode
            memory = decay * memory + (1.0 - decay) * embedding
            return memory, memory

        carry, memory = jax.lax.scan(step, carry, (embedding, reset))
        hidden = jnp.concatenate([embedding, memory], axis=-1)
        return carry, nn.Dense(self.width)(hidden), hidden


def make(cfg: Config, spec: EnvSpec, width: int) -> base.Agent:
    """The agent; its carry is the memory, f32[B, N, H]."""
    network = _Network(cfg.hidden, width, cfg.half_life)
    return base.make(cfg, spec, network, lambda *leading: jnp.zeros((*leading, cfg.hidden)))
