"""Masked reductions and elementwise losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax.core import masked


def test_total_and_mean_by_hand(run):
    values = jnp.array([[1.0, 2.0], [4.0, 8.0]])
    mask = jnp.array([[True, False], [True, True]])
    summed, count = run(masked.total)(values, mask)
    assert (float(summed), float(count)) == (13.0, 3.0)
    assert summed.dtype == count.dtype == jnp.float32
    np.testing.assert_allclose(run(masked.mean)(values, mask), 13.0 / 3.0, rtol=1e-6)


def test_the_mean_of_no_entries_is_zero(run):
    assert float(run(masked.mean)(jnp.array([5.0, jnp.nan]), jnp.zeros(2, bool))) == 0.0


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_masked_entries_reach_neither_value_nor_gradient(run, poison):
    values, mask = jnp.array([1.0, poison, 3.0]), jnp.array([True, False, True])
    value, gradient = run(jax.value_and_grad(masked.mean))(values, mask)
    assert float(value) == 2.0
    np.testing.assert_array_equal(gradient, [0.5, 0.0, 0.5])


@pytest.mark.parametrize(
    "mask", [jnp.ones(3), jnp.ones((3, 1), bool)], ids=["float mask", "other shape"]
)
def test_shapes_that_would_broadcast_are_refused(mask):
    with pytest.raises(AssertionError):
        masked.mean(jnp.ones(3), mask)


def test_huber_by_hand(run):
    """Quadratic up to 1; beyond it 1 * (2 |e| - 1)."""
    errors = jnp.array([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    cost = run(masked.huber)(errors, jnp.float32(1.0))
    np.testing.assert_allclose(cost, [5.0, 1.0, 0.25, 0.0, 0.25, 1.0, 5.0], rtol=1e-6)


def test_huber_slope_is_bounded_by_twice_delta(run):
    slope = run(jax.vmap(jax.grad(masked.huber), in_axes=(0, None)))
    errors = jnp.array([-9.0, -0.25, 0.0, 0.25, 9.0])
    np.testing.assert_allclose(slope(errors, jnp.float32(0.5)), [-1.0, -0.5, 0.0, 0.5, 1.0])


def test_huber_of_an_infinite_delta_is_the_square(run):
    errors = jnp.linspace(-20.0, 20.0, 41)
    for delta in (20.0, 1e30, np.inf):
        cost = run(masked.huber)(errors, jnp.float32(delta))
        np.testing.assert_allclose(cost, errors**2, rtol=1e-6)
