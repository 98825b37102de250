"""Qatten: utilities weighted by multi-head attention of the state over the agents.

    q_tot = sum_h |w_h(s)| sum_i lambda_hi(s) q_i + c(s)

Reference: Yang et al. 2020. Deviation: if the state has no columns per agent, keys take the agent's
index instead (the rest of the state is common to the agents, and the softmax cancels it); the
penalty on logits is that of QPLEX's code.
"""

from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn
from pydantic import Field

from qmix_jax.mixers import base
from qmix_jax.nn import attention
from qmix_jax.types import EnvSpec


class Config(attention.Config):
    """Options of Qatten."""

    logit_penalty: Annotated[float, Field(ge=0)] = 1e-3
    """Loss weight of the squared raw logits (mean over agents, sum over heads)."""


class _QattenNetwork(nn.Module):
    cfg: Config
    attend: attention.AgentAttention

    def __call__(self, inputs: base.MixerInputs) -> base.MixerOutput:
        out = self.attend(inputs.q_taken, inputs.state)
        return base.MixerOutput(
            q_tot=jnp.sum(out.weight * inputs.q_taken, axis=-1) + out.value,
            penalty=self.cfg.logit_penalty * out.logit_size,
            info={"attention": out.attention, "weight": out.weight},
        )


def make(cfg: Config, spec: EnvSpec) -> base.Mixer:
    """Makes the mixer.

    Raises: ConfigError for `mask_dead` if the state has no columns per agent.
    """
    linear = not cfg.nonlinear
    module = _QattenNetwork(cfg, attention.over_agents(cfg, spec))
    return base.from_module(module, spec, monotonic=linear, igm=linear)
