"""Positive importance weights of the agents' advantages, from the state and the actions."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from qmix_jax import config
from qmix_jax.nn import hypernetwork
from qmix_jax.types import Array

TINY = 1e-10
"""Added to absolute values that must be positive."""


class Config(config.Model):
    """Options of importance weights."""

    importance_heads: config.PositiveInt = 4
    """Number K of summands."""
    importance_layers: config.PositiveInt = 2
    """Layers of each network of lambda (the paper: 1 on SMAC, 3 on matrix games)."""
    importance_embed: config.PositiveInt = 64
    """Hidden width of networks of several layers."""


class Importance(nn.Module):
    """lambda_i = sum_k (|key_k(s)| + 1e-10) sigmoid(agents_k(s))_i sigmoid(actions_k(s, u))_i.

    Reference: Wang et al. 2021 (QPLEX) and its published code. Deviation: none.
    """

    cfg: Config

    @nn.compact
    def __call__(self, state: Array, actions: Array) -> Array:
        """(state f32[..., S], actions f32[..., N, A], one-hot) -> f32[..., N], positive."""
        cfg, n_agents = self.cfg, actions.shape[-2]
        net = hypernetwork.heads(cfg.importance_heads)

        def hyper(features: int, name: str, x: Array) -> Array:
            return net(features, cfg.importance_layers, cfg.importance_embed, name=name)(x)

        state_actions = jnp.concatenate([state, actions.reshape(*state.shape[:-1], -1)], axis=-1)
        key = jnp.abs(hyper(1, "key", state)) + TINY
        agents = jax.nn.sigmoid(hyper(n_agents, "agents", state))
        taken = jax.nn.sigmoid(hyper(n_agents, "actions", state_actions))
        return jnp.sum(key * agents * taken, axis=-2)
