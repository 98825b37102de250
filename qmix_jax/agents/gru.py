"""Recurrent agent: Dense-relu, GRU, Dense; parameters shared by all agents.

Reference: Rashid et al. 2018 (QMIX), section 4 and appendix (DRQN agent, Hausknecht & Stone 2015).
Deviation: the two redundant PyTorch GRU biases are one.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from qmix_jax import config
from qmix_jax.agents import base
from qmix_jax.nn import functional, initialisers, recurrent
from qmix_jax.types import Array, EnvSpec


class Config(config.Model):
    """Options of the recurrent agent."""

    hidden: config.PositiveInt = 64
    """Width of the embedding and of the GRU."""
    last_action: bool = True
    """Append the one-hot last action to the observation."""
    agent_id: bool = True
    """Append the one-hot agent id to the observation."""
    unroll: Literal["auto", "sequential", "stacked"] = "auto"
    """sequential: online network, then target network; stacked: both in one scan, whose inputs are
    projected beforehand; auto: sequential on CPUs, else stacked. The same numbers to rounding."""


class _Network(nn.Module):
    hidden: int
    n_actions: int
    hoisted: bool

    @nn.compact
    def __call__(self, carry: Array, x: Array, reset: Array) -> tuple[Array, Array, Array]:
        embedded = nn.relu(initialisers.Dense(self.hidden, name="embed")(x))
        carry, hidden = recurrent.GRU(self.hidden, self.hoisted, name="gru")(carry, embedded, reset)
        return carry, initialisers.Dense(self.n_actions, name="head")(hidden), hidden


def make(cfg: Config, spec: EnvSpec) -> base.Agent:
    """The agent for an environment; the carry is f32[B, N, H]."""
    on_cpu = jax.default_backend() == "cpu"
    stacked = cfg.unroll == "stacked" or (cfg.unroll == "auto" and not on_cpu)
    network = _Network(cfg.hidden, spec.n_actions_max, hoisted=stacked)
    network_init, network_apply = functional.pure(network)

    def inputs(obs: Array, prev_actions: Array) -> Array:
        flat = obs.reshape(*prev_actions.shape, -1)
        return base.features(flat, prev_actions, spec.n_actions_max, cfg.last_action, cfg.agent_id)

    def init(key: Array) -> base.Params:
        obs = jnp.zeros((1, 1, spec.n_agents, *spec.obs_shape))
        x = inputs(obs, jnp.zeros((1, 1, spec.n_agents), jnp.int32))
        rows = spec.n_agents
        return network_init(
            key,
            jnp.zeros((rows, cfg.hidden)),
            x.reshape(1, rows, -1),
            jnp.zeros((1, rows), bool),
        )

    def initial_carry(batch_size: int) -> Array:
        return jnp.zeros((batch_size, spec.n_agents, cfg.hidden))

    def unroll(
        params: base.Params, carry: Array, obs: Array, prev_actions: Array, reset: Array
    ) -> tuple[Array, Array, Array]:
        t, b, n = prev_actions.shape
        # Agents fold into the batch: one matrix product per step for all of them.
        x = inputs(obs, prev_actions).reshape(t, b * n, -1)
        folded_reset = jnp.repeat(reset, n, axis=1)
        carry, q, hidden = network_apply(params, carry.reshape(b * n, cfg.hidden), x, folded_reset)
        shape = (t, b, n)
        return (
            carry.reshape(b, n, cfg.hidden),
            q.reshape(*shape, -1),
            hidden.reshape(*shape, cfg.hidden),
        )

    return base.Agent(init, initial_carry, unroll, stacked)
