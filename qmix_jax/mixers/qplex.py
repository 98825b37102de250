"""QPLEX: duplex dueling, which represents all joint values with individual-global-max.

    Q~_i = w_i(s) Q_i + b_i(s);   Q_tot = sum_i Q~_i(u_i) + sum_i (lambda_i(s, u) - 1) A_i

with positive w and lambda, and advantages A_i <= 0 that carry no gradient.

Reference: Wang et al. 2021 and its published code. Deviation: the networks of lambda have two
layers by default.
"""

import jax.numpy as jnp
from flax import linen as nn

from qmix_jax import config
from qmix_jax.core import dueling
from qmix_jax.mixers import base
from qmix_jax.nn import hypernetwork, importance
from qmix_jax.types import EnvSpec


class Config(importance.Config):
    """Options of QPLEX."""

    hypernet_embed: config.PositiveInt = 64
    """Hidden width of the networks of w and b."""


class _QPLEXNetwork(nn.Module):
    cfg: Config

    @nn.compact
    def __call__(self, inputs: base.MixerInputs) -> base.MixerOutput:
        q, state = inputs.q_taken, inputs.state
        net, hidden = hypernetwork.Hypernetwork, self.cfg.hypernet_embed
        weight = jnp.abs(net(q.shape[-1], 2, hidden, name="w")(state)) + importance.TINY
        bias = net(q.shape[-1], 2, hidden, name="b")(state)
        lambdas = importance.Importance(self.cfg, name="importance")(state, inputs.actions)
        q_tot, advantage = dueling.duplex(q, inputs.q_greedy, weight, bias, lambdas)
        return base.without_penalty(q_tot, weight=weight, importance=lambdas, advantage=advantage)


def make(cfg: Config, spec: EnvSpec) -> base.Mixer:
    """Makes the mixer."""
    return base.from_module(_QPLEXNetwork(cfg), spec, monotonic=False, igm=True)
