"""Duplex dueling."""

import jax
import jax.numpy as jnp
import numpy as np
import projection
import pytest

from qmix_jax.core import dueling
from qmix_jax.mixers import base

Q, BEST = jnp.array([1.0, 2.0]), jnp.array([3.0, 2.0])
W, B, LAMBDA = jnp.array([2.0, 0.5]), jnp.array([0.1, -0.2]), jnp.array([1.5, 0.7])


def test_by_hand(run):
    """Q~ = (2.1, 0.8), V~ = (6.1, 0.8): 2.9 + 0.5 * -4 - 0.3 * 0."""
    q_tot, advantage = run(dueling.duplex)(Q, BEST, W, B, LAMBDA)
    np.testing.assert_allclose(q_tot, 0.9, rtol=1e-6)
    np.testing.assert_allclose(advantage, [-4.0, 0.0])


def test_is_values_plus_weighted_advantages(run):
    rng = np.random.default_rng(0)
    q, best, w, b, importance = rng.standard_normal((5, 4, 3, 2), dtype=np.float32)
    q_tot, advantage = run(dueling.duplex)(q, best, w, b, importance)
    expected = np.sum(w * best + b + importance * w * (q - best), axis=-1)
    np.testing.assert_allclose(q_tot, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(advantage, w * (q - best), rtol=1e-5, atol=1e-6)


def test_gradient_is_that_of_the_sum_with_advantages_as_constants(run):
    """With live advantages the utilities' gradient would be lambda * w, not w."""
    joint = jax.grad(lambda *args: dueling.duplex(*args)[0], argnums=(0, 1, 2, 3, 4))
    by_q, by_best, by_w, by_b, by_lambda = run(joint)(Q, BEST, W, B, LAMBDA)
    np.testing.assert_array_equal(by_q, W)
    np.testing.assert_array_equal(by_best, 0.0)
    np.testing.assert_array_equal(by_w, Q)
    np.testing.assert_array_equal(by_b, 1.0)
    np.testing.assert_allclose(by_lambda, [-4.0, 0.0])


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(AssertionError):
        dueling.duplex(Q, BEST, W, B, jnp.ones(1))


@pytest.mark.parametrize(("game", "optimum"), [("Q3", 8.0), ("CLIMB", 11.0)])
def test_with_free_importance_weights_every_seed_learns_the_game(game, optimum):
    """Games that no monotonic joint value represents."""

    def init(key):
        del key
        return jnp.zeros((9, 2))

    def apply(log_importance, inputs):
        ones = jnp.ones_like(inputs.q_taken)
        q_tot, _ = dueling.duplex(
            inputs.q_taken, inputs.q_greedy, ones, 0.0 * ones, jnp.exp(log_importance)
        )
        return base.without_penalty(q_tot)

    fit = projection.fit(game, init, apply, learning_rate=0.02, steps=8_000, seeds=64)
    np.testing.assert_array_equal(fit.greedy_payoff, optimum)
    assert fit.squared_error.max() < 0.1
