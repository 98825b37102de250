"""Recurrent agent: Dense-relu, LSTM, Dense.

Reference: Hausknecht & Stone 2015 (DRQN), whose memory is an LSTM; otherwise as the GRU agent.
Deviation: no convolutions before it unless the observation is an image; the two redundant PyTorch
LSTM biases are one.
"""

import jax.numpy as jnp

from qmix_jax.agents import _recurrent, base
from qmix_jax.nn import recurrent
from qmix_jax.types import EnvSpec


class Config(_recurrent.Config):
    """Options of the LSTM agent."""


def make(cfg: Config, spec: EnvSpec, width: int) -> base.Agent:
    """The agent of an environment; its carry is a `RecurrentState` of two f32[B, N, H]."""

    def zeros(*leading: int) -> recurrent.RecurrentState:
        shape = (*leading, cfg.hidden)
        return recurrent.RecurrentState(hidden=jnp.zeros(shape), cell=jnp.zeros(shape))

    return _recurrent.make(cfg, spec, width, recurrent.LSTM, zeros)
