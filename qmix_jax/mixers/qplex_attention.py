"""QPLEX with Qatten's transformation: attention gives w_i, and b_i is an equal share of V(s).

    Q~_i = w_i(s) Q_i + V(s) / N;   w_i = sum_h lambda_hi(s);   then as `qplex`

Reference: Wang et al. 2021, the variant `dmaq_qatten` of its code, used on SMAC; Yang et al. 2020.
Deviation: as `qatten` and `qplex`.
"""

from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn
from pydantic import Field

from qmix_jax.core import dueling
from qmix_jax.mixers import base
from qmix_jax.nn import attention, importance
from qmix_jax.types import EnvSpec


class Config(importance.Config, attention.Config):
    """Options of QPLEX with attention."""

    weighted_heads: bool = False
    """Heads are weighted by the state (the paper: on MMM2 and 3s5z_vs_3s6z); otherwise 1 each."""
    logit_penalty: Annotated[float, Field(ge=0)] = 1e-3
    """Loss weight of the squared raw logits (mean over agents, sum over heads)."""


class _QPLEXAttentionNetwork(nn.Module):
    cfg: Config
    attend: attention.AgentAttention

    @nn.compact
    def __call__(self, inputs: base.MixerInputs) -> base.MixerOutput:
        q, state = inputs.q_taken, inputs.state
        out = self.attend(q, state)
        weight = out.weight + importance.TINY
        bias = jnp.broadcast_to(out.value[..., None] / q.shape[-1], q.shape)
        lambdas = importance.Importance(self.cfg, name="importance")(state, inputs.actions)
        q_tot, advantage = dueling.duplex(q, inputs.q_greedy, weight, bias, lambdas)
        return base.MixerOutput(
            q_tot=q_tot,
            penalty=self.cfg.logit_penalty * out.logit_size,
            info={
                "attention": out.attention,
                "weight": weight,
                "importance": lambdas,
                "advantage": advantage,
            },
        )


def make(cfg: Config, spec: EnvSpec) -> base.Mixer:
    """Makes the mixer.

    Raises: ConfigError for `mask_dead` if the state has no columns per agent.
    """
    module = _QPLEXAttentionNetwork(cfg, attention.over_agents(cfg, spec))
    return base.from_module(module, spec, monotonic=False, igm=not cfg.nonlinear)
