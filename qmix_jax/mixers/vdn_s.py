"""VDN-S: the sum of the utilities and a value of the state.

    q_tot = sum_i q_i + V(s)

Reference: an ablation of Rashid et al. 2018. Deviation: none.
"""

import jax.numpy as jnp
from flax import linen as nn

from qmix_jax import config
from qmix_jax.mixers import base
from qmix_jax.nn import hypernetwork
from qmix_jax.types import EnvSpec


class Config(config.Model):
    """Options of VDN-S."""

    embed_dim: config.PositiveInt = 32
    """Hidden width of the state's value."""


class _VDNSNetwork(nn.Module):
    cfg: Config

    @nn.compact
    def __call__(self, inputs: base.MixerInputs) -> base.MixerOutput:
        value = hypernetwork.Hypernetwork(1, 2, self.cfg.embed_dim, name="v")(inputs.state)
        return base.without_penalty(jnp.sum(inputs.q_taken, axis=-1) + value[..., 0])


def make(cfg: Config, spec: EnvSpec) -> base.Mixer:
    """Makes the mixer."""
    return base.from_module(_VDNSNetwork(cfg), spec, monotonic=True, igm=True)
