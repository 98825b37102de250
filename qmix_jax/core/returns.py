"""Regression targets."""

import chex
import jax
import jax.numpy as jnp

from qmix_jax.types import Array


def one_step(reward: Array, terminated: Array, value_next: Array, gamma: Array) -> Array:
    """One-step target.

        y_t = r_t + gamma * (1 - terminated_t) * V_{t+1}

    Args:
      reward: f32[...], reward of the action taken at t.
      terminated: bool[...], True where that action ended the episode (time limits excluded).
      value_next: f32[...], value of the successor; may be anything, NaN included, where terminated.
      gamma: f32[], discount in [0, 1].
    Returns:
      f32[...]. No gradient flows through it.
    Raises: AssertionError at trace time if shapes or dtypes disagree.
    Reference: Watkins & Dayan 1992; Rashid et al. 2018 (QMIX), section 4. Deviation: none.
    """
    chex.assert_equal_shape([reward, terminated, value_next])
    chex.assert_type(terminated, bool)
    bootstrap = jnp.where(terminated, 0.0, value_next)
    return jax.lax.stop_gradient(reward + gamma * bootstrap)
