"""Temporal-difference targets."""

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


def chained(reset: Array, valid: Array) -> Array:
    """Where a multi-step target may continue: step t+1 is valid and in the same episode.

    Args:
      reset: bool[T+1, B], entry t is the first of an episode.
      valid: bool[T, B].
    Returns:
      bool[T, B], False at the last step.
    """
    following = valid[1:] & ~reset[1:-1]
    return jnp.concatenate([following, jnp.zeros_like(valid[:1])])


def n_step(
    reward: Array, terminated: Array, value_next: Array, gamma: Array, n: int, chain: Array
) -> Array:
    """n-step target; shorter where the chain is cut, so invalid steps have no effect.

        G_t = r_t + gamma * r_{t+1} + ... + gamma^n * V_{t+n}

    Args:
      reward: f32[T, ...], reward of the action taken at t.
      terminated: bool[T, ...], True where that action ended the episode (time limits excluded).
      value_next: f32[T, ...], greedy value of the successor.
      gamma: f32[], discount in [0, 1].
      n: number of rewards; 1 is the one-step target.
      chain: bool[T, ...], as from `chained`.
    Returns:
      f32[T, ...]. No gradient flows through it.
    Raises: AssertionError at trace time if shapes or dtypes disagree.
    Reference: Sutton & Barto 2018, section 7.1, with greedy bootstraps. Deviation: cut at invalid
    steps; no off-policy correction.
    """
    chex.assert_equal_shape([reward, terminated, value_next, chain])
    chex.assert_type([terminated, chain], bool)

    def lengthen(_: Array, shorter: Array) -> Array:
        following = jnp.concatenate([shorter[1:], shorter[-1:]])
        return one_step(reward, terminated, jnp.where(chain, following, value_next), gamma)

    return jax.lax.fori_loop(1, n, lengthen, one_step(reward, terminated, value_next, gamma))


def q_lambda(
    reward: Array,
    terminated: Array,
    value_next: Array,
    baseline_next: Array,
    gamma: Array,
    td_lambda: Array,
    chain: Array,
) -> Array:
    """Q(lambda) target; one-step where the chain is cut, so invalid steps have no effect.

        G_t = r_t + gamma * (1 - terminated_t) * (V_{t+1} + l_t * (G_{t+1} - C_{t+1}))
        l_t = td_lambda where chain_t, else 0

    Peng: C = V, bootstraps and returns are averaged. Watkins: Peng with the chain also cut where
    the action executed at t+1 is not greedy. Harutyunyan: C = Q(tau_{t+1}, a_{t+1}) of the executed
    action, so that the cost of exploration does not count against a_t.

    Args:
      reward: f32[T, ...], reward of the action taken at t.
      terminated: bool[T, ...], True where that action ended the episode (time limits excluded).
      value_next: f32[T, ...], V, greedy value of the successor.
      baseline_next: f32[T, ...], C; may be anything, NaN included, where the chain is cut.
      gamma: f32[], discount in [0, 1].
      td_lambda: f32[] in [0, 1]; 0 is the one-step target.
      chain: bool[T, ...], as from `chained`.
    Returns:
      f32[T, ...]. No gradient flows through it.
    Raises: AssertionError at trace time if shapes or dtypes disagree.
    Reference: Peng & Williams 1996 (the "TD(lambda)" of Hu et al. 2021, PyMARL2); Watkins 1989;
    Harutyunyan et al. 2016, Q*(lambda). Deviation: cut at invalid steps.
    """
    chex.assert_equal_shape([reward, terminated, value_next, baseline_next, chain])
    chex.assert_type([terminated, chain], bool)

    def step(
        following: Array, inputs: tuple[Array, Array, Array, Array, Array]
    ) -> tuple[Array, Array]:
        reward, terminated, value, baseline, linked = inputs
        value = jnp.where(linked, value + td_lambda * (following - baseline), value)
        target = one_step(reward, terminated, value, gamma)
        return target, target

    inputs = (reward, terminated, value_next, baseline_next, chain)
    return jax.lax.scan(step, jnp.zeros_like(reward[0]), inputs, reverse=True)[1]
