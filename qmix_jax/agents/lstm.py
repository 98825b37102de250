"""Recurrent agent: Dense-relu, LSTM, Dense.

Reference: Hausknecht & Stone 2015 (DRQN, which uses an LSTM); otherwise as the GRU agent.
Deviation: convolutions only if the observation is an image; one LSTM bias instead of PyTorch's two
redundant ones.
"""

import jax.numpy as jnp

from qmix_jax.agents import _recurrent, base
from qmix_jax.nn import recurrent
from qmix_jax.types import EnvSpec


class Config(_recurrent.Config):
    """Options of the LSTM agent."""


def make(cfg: Config, spec: EnvSpec, width: int) -> base.Agent:
    """Makes the agent; its carry is a `RecurrentState` of two f32[B, N, H]."""

    def zeros(*leading: int) -> recurrent.RecurrentState:
        shape = (*leading, cfg.hidden)
        return recurrent.RecurrentState(hidden=jnp.zeros(shape), cell=jnp.zeros(shape))

    return _recurrent.make(cfg, spec, width, recurrent.LSTM, zeros)
