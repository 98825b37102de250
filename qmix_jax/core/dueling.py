"""Joint values from per-agent values and advantages."""

import chex
import jax
import jax.numpy as jnp

from qmix_jax.types import Array


def duplex(
    q_taken: Array, q_greedy: Array, weight: Array, bias: Array, importance: Array
) -> tuple[Array, Array]:
    """Duplex dueling: QPLEX's joint value of transformed utilities.

        Q~_i = w_i Q_i(u_i) + b_i;   A_i = w_i (Q_i(u_i) - max_a Q_i(a)) <= 0, without gradient
        Q_tot = sum_i Q~_i + sum_i (lambda_i - 1) A_i

    The value equals sum_i V~_i + lambda_i A_i with V~_i = w_i max_a Q_i(a) + b_i, but the gradient
    does not: utilities, `weight` and `bias` learn through sum_i Q~_i only, `importance` through A.

    Args:
      q_taken, q_greedy: f32[..., N], utilities of the taken and of the best available actions.
      weight: f32[..., N], positive.
      bias: f32[..., N].
      importance: f32[..., N], positive.
    Returns:
      (q_tot f32[...], A f32[..., N]).
    Raises: AssertionError at trace time if shapes disagree.
    Reference: Wang et al. 2021 (QPLEX) and its published code. Deviation: none.
    """
    chex.assert_equal_shape([q_taken, q_greedy, weight, bias, importance])
    advantage = jax.lax.stop_gradient(weight * (q_taken - q_greedy))
    q_tot = jnp.sum(weight * q_taken + bias + (importance - 1.0) * advantage, axis=-1)
    return q_tot, advantage
