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


@pytest.mark.parametrize(
    "terminated", [jnp.zeros(3), jnp.zeros((3, 1), bool)], ids=["float flag", "other shape"]
)
def test_refuses_what_would_broadcast(terminated):
    with pytest.raises(AssertionError):
        returns.one_step(REWARD, terminated, REWARD, GAMMA)
