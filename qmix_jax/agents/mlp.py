"""Feed-forward agent: Dense-relu layers and a head; parameters shared by all agents.

Reference: Rashid et al. 2018 (QMIX), appendix (two-step game). Deviation: none.
"""

import jax.numpy as jnp
from flax import linen as nn

from qmix_jax import config
from qmix_jax.agents import base
from qmix_jax.nn import functional, initialisers
from qmix_jax.types import Array, EnvSpec


class Config(config.Model):
    """Options of the feed-forward agent."""

    hidden: config.PositiveInt = 64
    """Width of each hidden layer."""
    layers: config.PositiveInt = 1
    """Number of hidden layers."""
    last_action: bool = False
    """Append the one-hot last action to the observation."""
    agent_id: bool = True
    """Append the one-hot agent id to the observation."""


class _Network(nn.Module):
    hidden: int
    layers: int
    n_actions: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        for index in range(self.layers):
            x = nn.relu(initialisers.Dense(self.hidden, name=f"hidden_{index}")(x))
        return initialisers.Dense(self.n_actions, name="head")(x), x


def make(cfg: Config, spec: EnvSpec) -> base.Agent:
    """The agent for an environment; the carry is empty."""
    network = _Network(cfg.hidden, cfg.layers, spec.n_actions_max)
    network_init, network_apply = functional.pure(network)

    def inputs(obs: Array, prev_actions: Array) -> Array:
        flat = obs.reshape(*prev_actions.shape, -1)
        return base.features(flat, prev_actions, spec.n_actions_max, cfg.last_action, cfg.agent_id)

    def init(key: Array) -> base.Params:
        obs = jnp.zeros((spec.n_agents, *spec.obs_shape))
        return network_init(key, inputs(obs, jnp.zeros((spec.n_agents,), jnp.int32)))

    def initial_carry(batch_size: int) -> tuple[()]:
        del batch_size
        return ()

    def unroll(
        params: base.Params, carry: tuple[()], obs: Array, prev_actions: Array, reset: Array
    ) -> tuple[tuple[()], Array, Array]:
        del reset
        q, hidden = network_apply(params, inputs(obs, prev_actions))
        return carry, q, hidden

    return base.Agent(init, initial_carry, unroll)
