"""Selection of actions and their utilities. Masks select and never become values."""

import chex
import jax.numpy as jnp

from qmix_jax.types import Array


def greedy(q: Array, avail_actions: Array) -> Array:
    """Returns the best available action; the first one of equals.

    Args:
      q: f32[..., A], utilities.
      avail_actions: bool[..., A], at least one True per row.
    Returns:
      i32[...].
    Raises: AssertionError at trace time if shapes disagree or the mask is not bool.
    """
    chex.assert_equal_shape([q, avail_actions])
    chex.assert_type(avail_actions, bool)
    return jnp.argmax(jnp.where(avail_actions, q, -jnp.inf), axis=-1).astype(jnp.int32)


def take(q: Array, actions: Array) -> Array:
    """Returns the utility of one action per row.

    Args:
      q: f32[..., A], raw (unmasked) utilities.
      actions: i32[...], in [0, A).
    Returns:
      f32[...].
    Raises: AssertionError at trace time if leading shapes disagree.
    """
    chex.assert_equal_shape_prefix([q, actions], actions.ndim)
    chex.assert_rank(q, actions.ndim + 1)
    return jnp.take_along_axis(q, actions[..., None], axis=-1)[..., 0]


def double_q_action(q: Array, q_target: Array, avail_actions: Array, double_q: bool) -> Array:
    """Selects the next action, whose target-network utility enters the target.

    Args:
      q: f32[..., A], online utilities.
      q_target: f32[..., A], target-network utilities.
      avail_actions: bool[..., A].
      double_q: select with the online network (van Hasselt et al. 2016); otherwise with the target.
    Returns:
      i32[...].
    """
    return greedy(q if double_q else q_target, avail_actions)
