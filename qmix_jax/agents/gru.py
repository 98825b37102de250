"""Recurrent agent: Dense-relu, GRU, Dense.

Reference: Rashid et al. 2018 (QMIX), section 4 and appendix (DRQN agent, Hausknecht & Stone 2015).
Deviation: one GRU bias instead of PyTorch's two redundant ones.
"""

import jax.numpy as jnp

from qmix_jax.agents import _recurrent, base
from qmix_jax.nn import recurrent
from qmix_jax.types import EnvSpec


class Config(_recurrent.Config):
    """Options of the GRU agent."""


def make(cfg: Config, spec: EnvSpec, width: int) -> base.Agent:
    """Makes the agent; its carry is f32[B, N, H]."""
    return _recurrent.make(
        cfg, spec, width, recurrent.GRU, lambda *leading: jnp.zeros((*leading, cfg.hidden))
    )
