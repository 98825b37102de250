"""Shared network of recurrent agents: Dense-relu layers, a recurrent layer, a linear head."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from qmix_jax import config
from qmix_jax.agents import base
from qmix_jax.nn import initialisers, recurrent, torso
from qmix_jax.types import Array, EnvSpec


class Config(base.Config):
    """Options of recurrent agents."""

    embed_layers: config.PositiveInt = 1
    """Dense layers before the recurrent one."""
    unroll: Literal["auto", "sequential", "stacked"] = "auto"
    """sequential: online network, then target network; stacked: both in one scan, whose inputs are
    projected beforehand; auto: sequential on CPUs, else stacked. Results are equal to rounding."""


class _RecurrentNetwork(nn.Module):
    torso: torso.Torso
    core: type[recurrent.GRU] | type[recurrent.LSTM]
    width: int
    hoisted: bool

    @nn.compact
    def __call__(
        self, carry: base.Carry, x: Array, reset: Array
    ) -> tuple[base.Carry, Array, Array]:
        t, b, n = x.shape[:3]
        # Agents fold into the batch: one matrix product per step for all of them.
        embedded = torso.embed(self.torso, x.reshape(t, b * n, -1))
        core = self.core(self.torso.features, self.hoisted, name=self.core.__name__.lower())
        rows = jax.tree.map(lambda leaf: leaf.reshape(b * n, -1), carry)
        last, hidden = core(rows, embedded, jnp.repeat(reset, n, axis=1))
        head = initialisers.Dense(self.width, name="head")(hidden)
        carry = jax.tree.map(lambda leaf: leaf.reshape(b, n, -1), last)
        return carry, head.reshape(t, b, n, -1), hidden.reshape(t, b, n, -1)


def layer_names(cfg: Config) -> tuple[str, ...]:
    """Names of the Dense layers before the recurrent one."""
    return ("embed", *(f"embed_{index}" for index in range(1, cfg.embed_layers)))


def make(
    cfg: Config,
    spec: EnvSpec,
    width: int,
    core: type[recurrent.GRU] | type[recurrent.LSTM],
    zeros: Callable[..., base.Carry],
) -> base.Agent:
    """Makes the agent.

    Args:
      width: K, of the head.
      core: the recurrent layer; its parameters are named after it.
      zeros: `(*leading) -> carry`, the initial carry.
    """
    on_cpu = jax.default_backend() == "cpu"
    stacked = cfg.unroll == "stacked" or (cfg.unroll == "auto" and not on_cpu)
    layers = base.make_torso(cfg, spec, layer_names(cfg))
    network = _RecurrentNetwork(layers, core, width, hoisted=stacked)
    return base.make(cfg, spec, network, zeros, stacked)
