"""QMIX: a monotonic network of the utilities, with weights from hypernetworks of the state.

    hidden = elu(q @ |W1(s)| + b1(s));   q_tot = hidden . |w2(s)| + V(s)

Reference: Rashid et al. 2018; JMLR 2020. Deviation: optional weight functions `softplus` and
`square` (0.5 x^2) besides the absolute value, an optional factor on the hypernetworks' last layers,
and optional LayerNorm on the state and inside V.
"""

from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from pydantic import Field

from qmix_jax import config
from qmix_jax.mixers import base
from qmix_jax.nn import hypernetwork, initialisers
from qmix_jax.types import Array, EnvSpec

_WEIGHT = {
    "abs": jnp.abs,
    "softplus": jax.nn.softplus,
    "square": lambda x: 0.5 * jnp.square(x),
}


class Config(config.Model):
    """Options of the QMIX mixer."""

    embed_dim: config.PositiveInt = 32
    """Width of the mixing network."""
    hypernet_layers: Annotated[config.Int, Field(ge=1, le=2)] = 2
    """1: linear hypernetworks (the 2018 paper); 2: Dense-relu-Dense."""
    hypernet_embed: config.PositiveInt = 64
    """Hidden width of two-layer hypernetworks."""
    weight: Literal["abs", "softplus", "square"] = "abs"
    """Function that makes mixing weights non-negative."""
    init_scale: config.PositiveFloat = 1.0
    """Factor on the initial bounds of the hypernetworks' last layers."""
    layer_norm: bool = False
    """LayerNorm (Ba et al. 2016) of the state and of V's hidden layer, for learning without a
    target network. It erases a state of one entry."""


class _QMIXNetwork(nn.Module):
    cfg: Config

    @nn.compact
    def __call__(self, inputs: base.MixerInputs) -> base.MixerOutput:
        cfg, embed = self.cfg, self.cfg.embed_dim
        q, state = inputs.q_taken, inputs.state
        weight = _WEIGHT[cfg.weight]
        if cfg.layer_norm:
            state = nn.LayerNorm(name="state_norm")(state)

        def hyper(features: int, name: str) -> Array:
            net = hypernetwork.Hypernetwork(
                features, cfg.hypernet_layers, cfg.hypernet_embed, cfg.init_scale, name=name
            )
            return net(state)

        w1 = weight(hyper(q.shape[-1] * embed, "w1"))
        w1 = w1.reshape(*q.shape, embed)
        b1 = initialisers.Dense(embed, cfg.init_scale, name="b1")(state)
        # Product and sum: a batch of [1, N] x [N, E] matrix products is slower on all devices.
        hidden = nn.elu(jnp.sum(q[..., None] * w1, axis=-2) + b1)
        w2 = weight(hyper(embed, "w2"))
        v = hypernetwork.Hypernetwork(
            1, 2, embed, cfg.init_scale, layer_norm=cfg.layer_norm, name="v"
        )
        return base.without_penalty(jnp.sum(hidden * w2, axis=-1) + v(state)[..., 0])


def make(cfg: Config, spec: EnvSpec) -> base.Mixer:
    """Makes the mixer."""
    return base.from_module(_QMIXNetwork(cfg), spec, monotonic=True, igm=True)
