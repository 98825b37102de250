"""QMIX-NS: QMIX's mixing network without the state, with trained weights.

    hidden = elu(q @ |W1| + b1);   q_tot = hidden . |w2| + b2

Reference: an ablation of Rashid et al. 2018. Deviation: the paper gives no initial values; these
are PyTorch's for two layers.
"""

import jax.numpy as jnp
from flax import linen as nn

from qmix_jax import config
from qmix_jax.mixers import base
from qmix_jax.nn import functional, initialisers
from qmix_jax.types import EnvSpec


class Config(config.Model):
    """Options of QMIX-NS."""

    embed_dim: config.PositiveInt = 32
    """Width of the mixing network."""


class _QMIXNSNetwork(nn.Module):
    cfg: Config

    @nn.compact
    def __call__(self, inputs: base.MixerInputs) -> base.MixerOutput:
        q, embed = inputs.q_taken, self.cfg.embed_dim
        first, second = (initialisers.uniform(size**-0.5) for size in (q.shape[-1], embed))
        w1 = jnp.abs(self.param("w1", first, (q.shape[-1], embed)))
        b1 = self.param("b1", first, (embed,))
        w2 = jnp.abs(self.param("w2", second, (embed, 1)))
        b2 = self.param("b2", second, (1,))
        hidden = nn.elu(functional.affine(q, w1, b1))
        return base.without_penalty(functional.affine(hidden, w2, b2)[..., 0])


def make(cfg: Config, spec: EnvSpec) -> base.Mixer:
    """Makes the mixer."""
    return base.from_module(_QMIXNSNetwork(cfg), spec, monotonic=True, igm=True)
