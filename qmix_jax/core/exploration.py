"""Behaviour policies under availability masks."""

import jax
import jax.numpy as jnp

from qmix_jax.core import qvalues
from qmix_jax.types import Array


def uniform_available(key: Array, avail_actions: Array) -> Array:
    """Samples an available action per row uniformly.

    Args:
      key: typed PRNG key.
      avail_actions: bool[..., A], at least one True per row.
    Returns:
      i32[...].
    """
    rank = jnp.cumsum(avail_actions, axis=-1)
    draw = jax.random.uniform(key, avail_actions.shape[:-1])
    chosen = jnp.floor(draw * rank[..., -1]).astype(rank.dtype)
    # The first action whose rank exceeds the draw; `uniform` is below 1, so there is one.
    return jnp.argmax(rank > chosen[..., None], axis=-1).astype(jnp.int32)


def epsilon_greedy(key: Array, q: Array, avail_actions: Array, epsilon: Array) -> Array:
    """Acts per row: uniform over available actions with probability `epsilon`, else greedy.

    Args:
      key: typed PRNG key.
      q: f32[..., A], utilities.
      avail_actions: bool[..., A], at least one True per row.
      epsilon: f32[], in [0, 1].
    Returns:
      i32[...].
    Reference: Rashid et al. 2018 (QMIX), appendix: one Bernoulli draw per agent and step.
    """
    key_explore, key_action = jax.random.split(key)
    explore = jax.random.uniform(key_explore, q.shape[:-1]) < epsilon
    random = uniform_available(key_action, avail_actions)
    return jnp.where(explore, random, qvalues.greedy(q, avail_actions))
