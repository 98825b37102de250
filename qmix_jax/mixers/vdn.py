"""VDN: the joint value is the sum of the utilities.

Reference: Sunehag et al. 2018. Deviation: none.
"""

import jax.numpy as jnp

from qmix_jax import config
from qmix_jax.mixers import base
from qmix_jax.types import Array, EnvSpec


class Config(config.Model):
    """VDN has no options."""


def make(cfg: Config, spec: EnvSpec) -> base.Mixer:
    """Makes the mixer, which has no parameters."""
    del cfg, spec

    def init(key: Array) -> base.Params:
        del key
        return {}

    def apply(params: base.Params, inputs: base.MixerInputs) -> base.MixerOutput:
        del params
        return base.without_penalty(jnp.sum(inputs.q_taken, axis=-1))

    return base.Mixer(init, apply, monotonic=True, igm=True)
