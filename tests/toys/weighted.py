"""A mixer outside the package: a weighted sum whose weights are parameters."""

import jax.numpy as jnp
from flax import linen as nn

from qmix_jax import config
from qmix_jax.mixers import base
from qmix_jax.types import EnvSpec


class Config(config.Model):
    """Options of the weighted sum."""

    start: config.PositiveFloat = 1.0
    """Every agent's weight before learning."""


class _Mixer(nn.Module):
    start: float

    @nn.compact
    def __call__(self, inputs: base.MixerInputs) -> base.MixerOutput:
        q = inputs.q_taken
        weight = self.param("weight", nn.initializers.constant(self.start), (q.shape[-1],))
        weighted = q * jnp.broadcast_to(jnp.abs(weight), q.shape)
        return base.without_penalty(jnp.sum(weighted, axis=-1))


def make(cfg: Config, spec: EnvSpec) -> base.Mixer:
    """The mixer."""
    return base.from_module(_Mixer(cfg.start), spec, monotonic=True, igm=True)
