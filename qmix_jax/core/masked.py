"""Masked reductions and elementwise losses. Invalid entries are dropped with `where`: a product
with zero would preserve their NaN and inf.
"""

import chex
import jax.numpy as jnp

from qmix_jax.types import Array


def total(values: Array, mask: Array) -> tuple[Array, Array]:
    """Returns the sum over the entries where `mask` is True, and their number.

    Args:
      values: f32[...].
      mask: bool[...], same shape.
    Returns:
      (f32[], f32[]).
    Raises: AssertionError at trace time if shapes disagree or the mask is not bool.
    """
    chex.assert_equal_shape([values, mask])
    chex.assert_type(mask, bool)
    return jnp.sum(jnp.where(mask, values, 0.0)), jnp.sum(mask, dtype=jnp.float32)


def mean(values: Array, mask: Array) -> Array:
    """Returns the mean over the entries where `mask` is True; 0 if there are none. Shapes as in
    `total`.
    """
    summed, count = total(values, mask)
    return summed / jnp.maximum(count, 1.0)


def huber(error: Array, delta: Array) -> Array:
    """Huber loss: `error**2` up to `delta`, then linear with the same slope.

    This is twice the textbook loss, so that `delta -> inf` is the squared error and learning rates
    carry over.

    Args:
      error: f32[...].
      delta: f32[], > 0.
    Returns:
      f32[...].
    Reference: Huber 1964. Deviation: factor 2.
    """
    clipped = jnp.minimum(jnp.abs(error), delta)
    return clipped * (2.0 * jnp.abs(error) - clipped)
