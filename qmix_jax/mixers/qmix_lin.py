"""QMIX-Lin: a sum of the utilities, with non-negative weights and a bias from the state.

    q_tot = sum_i |w_i(s)| q_i + V(s)

Reference: an ablation of Rashid et al. 2018. Deviation: two-layer hypernetworks by default, as in
`qmix`.
"""

import jax.numpy as jnp
from flax import linen as nn

from qmix_jax import config
from qmix_jax.mixers import base
from qmix_jax.nn import hypernetwork
from qmix_jax.types import EnvSpec


class Config(config.Model):
    """Options of QMIX-Lin."""

    embed_dim: config.PositiveInt = 32
    """Hidden width of the state's value."""
    hypernet_layers: config.PositiveInt = 2
    """1: a linear hypernetwork; 2: Dense-relu-Dense."""
    hypernet_embed: config.PositiveInt = 64
    """Hidden width of hypernetworks of several layers."""


class _QMIXLinNetwork(nn.Module):
    cfg: Config

    @nn.compact
    def __call__(self, inputs: base.MixerInputs) -> base.MixerOutput:
        cfg, q, state = self.cfg, inputs.q_taken, inputs.state
        net = hypernetwork.Hypernetwork
        weight = jnp.abs(net(q.shape[-1], cfg.hypernet_layers, cfg.hypernet_embed, name="w")(state))
        value = net(1, 2, cfg.embed_dim, name="v")(state)
        q_tot = jnp.sum(weight * q, axis=-1) + value[..., 0]
        return base.without_penalty(q_tot, weight=weight)


def make(cfg: Config, spec: EnvSpec) -> base.Mixer:
    """Makes the mixer."""
    return base.from_module(_QMIXLinNetwork(cfg), spec, monotonic=True, igm=True)
