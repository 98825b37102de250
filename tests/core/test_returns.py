"""Regression targets."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from qmix_jax.core import returns

REWARD = jnp.array([1.0, 0.0, 2.0])
GAMMA = jnp.float32(0.9)


def test_by_hand(run):
    """1 + 0.9 * 1.0, 0 + 0.9 * 1.5, and 2 at the end of the episode."""
    terminated = jnp.array([False, False, True])
    target = run(returns.one_step)(REWARD, terminated, jnp.array([1.0, 1.5, 7.0]), GAMMA)
    np.testing.assert_allclose(target, [1.9, 1.35, 2.0], rtol=1e-6)
    assert target.dtype == jnp.float32


def test_a_time_limit_is_bootstrapped_through(run):
    target = run(returns.one_step)(REWARD, jnp.zeros(3, bool), jnp.array([1.0, 1.5, 2.0]), GAMMA)
    np.testing.assert_allclose(target, [1.9, 1.35, 3.8], rtol=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_the_value_after_a_termination_is_never_read(run, poison):
    terminated = jnp.array([True, False, True])
    target = run(returns.one_step)(
        REWARD, terminated, jnp.array([poison, 1.0, poison]), jnp.float32(0.0)
    )
    np.testing.assert_array_equal(target, [1.0, 0.0, 2.0])


def test_no_gradient_flows_through_the_target(run):
    def total(reward, value_next, gamma):
        return jnp.sum(returns.one_step(reward, jnp.zeros(3, bool), value_next, gamma))

    gradients = run(jax.grad(total, argnums=(0, 1, 2)))(REWARD, REWARD + 1.0, GAMMA)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_agrees_with_a_loop(run):
    rng = np.random.default_rng(0)
    reward, value_next = rng.standard_normal((2, 6, 3, 2), dtype=np.float32)
    terminated = rng.random((6, 3, 2)) < 0.3
    target = run(returns.one_step)(reward, terminated, value_next, GAMMA)
    expected = oracles.one_step(reward, terminated, value_next, 0.9)
    np.testing.assert_allclose(target, expected, rtol=1e-6, atol=1e-6)


LAMBDA = jnp.float32(0.5)


@pytest.mark.parametrize(
    ("ends", "value_next", "expected"),
    [
        (True, [1.0, 1.5, 7.0], [2.15875, 1.575, 2.0]),
        (False, [1.0, 1.5, 2.0], [2.52325, 2.385, 3.8]),
    ],
    ids=["terminated", "truncated"],
)
def test_peng_lambda_by_hand(run, ends, value_next, expected):
    """Backwards: 2 at the end (3.8 through a time limit), then
    0 + 0.9 * (0.5 * 1.5 + 0.5 * 2) and 1 + 0.9 * (0.5 * 1.0 + 0.5 * 1.575)."""
    terminated, chain = jnp.array([False, False, ends]), jnp.array([True, True, False])
    target = run(returns.peng_lambda)(
        REWARD, terminated, jnp.array(value_next), GAMMA, LAMBDA, chain
    )
    np.testing.assert_allclose(target, expected, rtol=1e-6)


def test_lambda_zero_is_one_step_and_lambda_one_sums_rewards(run):
    terminated, chain = jnp.array([False, False, True]), jnp.array([True, True, False])
    value_next = jnp.array([1.0, 1.5, 7.0])
    target = run(returns.peng_lambda)
    zero = target(REWARD, terminated, value_next, GAMMA, jnp.float32(0.0), chain)
    one = target(REWARD, terminated, value_next, GAMMA, jnp.float32(1.0), chain)
    np.testing.assert_allclose(zero, [1.9, 1.35, 2.0], rtol=1e-6)
    np.testing.assert_allclose(one, [1.0 + 0.81 * 2.0, 0.9 * 2.0, 2.0], rtol=1e-6)


def test_peng_lambda_agrees_with_a_loop_whatever_broken_chains_hide(run):
    """Steps that no chain reaches hold NaN."""
    rng = np.random.default_rng(0)
    reward, value_next = rng.standard_normal((2, 9, 4, 2), dtype=np.float32)
    terminated = rng.random((9, 4, 2)) < 0.2
    chain = rng.random((9, 4, 2)) < 0.7
    chain[-1] = False
    reward[1:][~chain[:-1] & (rng.random((8, 4, 2)) < 0.5)] = np.nan
    value_next[terminated] = np.inf
    target = run(returns.peng_lambda)(reward, terminated, value_next, GAMMA, LAMBDA, chain)
    expected = oracles.peng_lambda(reward, terminated, value_next, 0.9, 0.5, chain)
    assert np.isnan(expected).any() and np.isfinite(expected).any()
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-6)


def test_no_gradient_flows_through_peng_lambda(run):
    def total(reward, value_next, gamma, td_lambda):
        flags = jnp.zeros(3, bool), jnp.array([True, True, False])
        target = returns.peng_lambda(reward, flags[0], value_next, gamma, td_lambda, flags[1])
        return jnp.sum(target)

    inputs = (REWARD, REWARD + 1.0, GAMMA, LAMBDA)
    for gradient in run(jax.grad(total, argnums=(0, 1, 2, 3)))(*inputs):
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_chain_stops_at_episode_starts_invalid_steps_and_the_end(run):
    """Sequence 1: an episode ends after two steps. Sequence 2: its third step is not valid."""
    reset = jnp.array([[True, True], [False, False], [True, False], [False, False], [False, True]])
    valid = jnp.array([[True, True], [True, True], [True, False], [True, True]])
    expected = np.array([[True, True], [False, False], [True, True], [False, False]])
    np.testing.assert_array_equal(run(returns.chained)(reset, valid), expected)


@pytest.mark.parametrize(
    "terminated", [jnp.zeros(3), jnp.zeros((3, 1), bool)], ids=["float flag", "other shape"]
)
def test_refuses_what_would_broadcast(terminated):
    with pytest.raises(AssertionError):
        returns.one_step(REWARD, terminated, REWARD, GAMMA)
    with pytest.raises(AssertionError):
        returns.peng_lambda(REWARD, terminated, REWARD, GAMMA, LAMBDA, jnp.zeros(3, bool))
