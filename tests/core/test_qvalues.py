"""Selection of actions and their utilities."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from qmix_jax.core import qvalues


def test_greedy_ignores_a_better_unavailable_action(run):
    """Every utility is negative, so a mask that multiplies by zero would win."""
    q = jnp.array([[-1.0, -3.0, -2.0], [-1e30, -2e30, -5.0]])
    avail = jnp.array([[False, True, True], [True, True, False]])
    actions = run(qvalues.greedy)(q, avail)
    np.testing.assert_array_equal(actions, [2, 0])
    assert actions.dtype == jnp.int32


def test_greedy_takes_the_first_of_equals(run):
    q, avail = jnp.array([2.0, 2.0, 2.0]), jnp.array([False, True, True])
    assert int(run(qvalues.greedy)(q, avail)) == 1


def test_greedy_agrees_with_a_loop(run):
    rng = np.random.default_rng(0)
    q = rng.standard_normal((5, 4, 3), dtype=np.float32) - 5.0
    avail = rng.random((5, 4, 3)) < 0.5
    avail[..., 1] |= ~avail.any(axis=-1)
    expected = [[oracles.best_available(q[i, j], avail[i, j]) for j in range(4)] for i in range(5)]
    np.testing.assert_array_equal(run(qvalues.greedy)(q, avail), expected)


@pytest.mark.parametrize(
    "avail", [jnp.ones((2, 3)), jnp.ones(3, bool)], ids=["float mask", "other shape"]
)
def test_greedy_refuses_shapes_that_would_broadcast(avail):
    with pytest.raises(AssertionError):
        qvalues.greedy(jnp.zeros((2, 3)), avail)


def test_take_reads_the_raw_utility(run):
    q = jnp.array([[-1.0, -2.0, -3.0], [4.0, 5.0, 6.0]])
    np.testing.assert_array_equal(run(qvalues.take)(q, jnp.array([2, 0])), [-3.0, 4.0])


def test_take_sends_the_gradient_to_the_taken_action_only(run):
    gradient = run(jax.grad(lambda q: jnp.sum(qvalues.take(q, jnp.array([1, 0])))))
    np.testing.assert_array_equal(gradient(jnp.ones((2, 2))), [[0.0, 1.0], [1.0, 0.0]])


def test_take_refuses_other_leading_axes():
    with pytest.raises(AssertionError):
        qvalues.take(jnp.zeros((2, 3)), jnp.zeros((3,), jnp.int32))


@pytest.mark.parametrize(("double_q", "expected"), [(True, 1), (False, 2)])
def test_double_q_selects_with_the_online_network(run, double_q, expected):
    """Action 0 is best for both networks and unavailable."""
    q, q_target = jnp.array([9.0, 2.0, 1.0]), jnp.array([9.0, 1.0, 2.0])
    select = run(lambda *args: qvalues.double_q_action(*args, double_q))
    assert int(select(q, q_target, jnp.array([False, True, True]))) == expected
