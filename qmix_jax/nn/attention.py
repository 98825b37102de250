"""Multi-head attention of the state over the agents."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from qmix_jax import config
from qmix_jax.nn import hypernetwork, initialisers
from qmix_jax.types import Array, EnvSpec


class Config(config.Model):
    """Options of attention over agents."""

    heads: config.PositiveInt = 4
    """Number of attention heads."""
    embed_dim: config.PositiveInt = 32
    """Width of queries and keys, and hidden width of the state's value."""
    query_layers: config.PositiveInt = 2
    """1: queries are linear in the state; 2: Dense-relu-Dense."""
    hypernet_embed: config.PositiveInt = 64
    """Hidden width of queries and of head weights."""
    query_bias: bool = False
    """Whether the last layer of the queries has a bias."""
    weighted_heads: bool = True
    """Weight heads by the state; otherwise all weights are 1."""
    nonlinear: bool = False
    """Add the agent's utility to its key: more expressive, but without individual-global-max."""
    mask_dead: bool = False
    """Agents whose columns of the state are all zero get no attention (in SMAX, dead agents)."""


class AttentionOutput(NamedTuple):
    """Output of attention.

    Attributes:
      weight: f32[..., N], attention of each agent summed over the weighted heads.
      value: f32[...], of the state.
      attention: f32[..., H, N], >= 0, sums to 1 over the agents.
      logit_size: f32[...], the squared raw logits: mean over agents, sum over heads.
    """

    weight: Array
    value: Array
    attention: Array
    logit_size: Array


class AgentAttention(nn.Module):
    """Multi-head attention with queries from the state and keys from each agent's part of it.

        logit_hi = query_h(s) . key_h(x_i);   lambda_h = softmax_i(logit_h / sqrt(E))
        weight_i = sum_h |w_h(s)| lambda_hi

    Attributes:
      cfg: options.
      columns: per agent, the state's columns that describe it; with None, x_i is the agent's
        one-hot index.
    Reference: Yang et al. 2020 (Qatten). Deviation: keys have no bias, which would shift all logits
    equally and cancel in the softmax.
    """

    cfg: Config
    columns: tuple[tuple[int, ...], ...] | None

    @nn.compact
    def __call__(self, q: Array, state: Array) -> AttentionOutput:
        """(q f32[..., N], state f32[..., S]) -> AttentionOutput[...]."""
        cfg = self.cfg
        features = self._agent_features(q, state)
        query = hypernetwork.heads(cfg.heads)(
            cfg.embed_dim,
            cfg.query_layers,
            cfg.hypernet_embed,
            output_bias=cfg.query_bias,
            name="query",
        )(state)
        x = jnp.concatenate([features, q[..., None]], axis=-1) if cfg.nonlinear else features
        key = initialisers.Dense(cfg.heads * cfg.embed_dim, use_bias=False, name="key")(x)
        key = key.reshape(*q.shape, cfg.heads, cfg.embed_dim)
        # Product and sum: a batch of small matrix products is slower on a CPU.
        logits = jnp.swapaxes(jnp.sum(query[..., None, :, :] * key, axis=-1), -1, -2)
        scaled = logits / math.sqrt(cfg.embed_dim)
        if cfg.mask_dead:
            alive = jnp.any(features != 0.0, axis=-1)[..., None, :]
            scaled = jnp.where(alive, scaled, -1e9)
        attention = jax.nn.softmax(scaled, axis=-1)
        net = hypernetwork.Hypernetwork
        weighted = attention
        if cfg.weighted_heads:
            head_weight = net(cfg.heads, 2, cfg.hypernet_embed, name="head_weight")(state)
            weighted = jnp.abs(head_weight)[..., None] * attention
        return AttentionOutput(
            weight=jnp.sum(weighted, axis=-2),
            value=net(1, 2, cfg.embed_dim, name="v")(state)[..., 0],
            attention=attention,
            logit_size=jnp.sum(jnp.mean(jnp.square(logits), axis=-1), axis=-1),
        )

    def _agent_features(self, q: Array, state: Array) -> Array:
        """f32[..., N, F]."""
        if self.columns is None:
            index = jnp.eye(q.shape[-1], dtype=state.dtype)
            return jnp.broadcast_to(index, (*q.shape, q.shape[-1]))
        return state[..., np.array(self.columns)]


def over_agents(cfg: Config, spec: EnvSpec) -> AgentAttention:
    """Makes attention over the agents of an environment.

    Raises: ConfigError for `mask_dead` if the state has no columns per agent.
    """
    if spec.agent_state is not None:
        return AgentAttention(cfg, tuple(map(tuple, spec.agent_state.tolist())))
    if cfg.mask_dead:
        raise config.ConfigError(
            f"algo.mixer.options.mask_dead=true: the state of {spec.name} does not show which "
            "agents are dead; set mask_dead=false"
        )
    return AgentAttention(cfg, None)
