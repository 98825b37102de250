"""Behaviour policies; every draw has a fixed key."""

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.core import exploration

AVAIL = np.array([True, False, True, True, False, True])
DRAWS = 20_000


def _rows(avail, n):
    return jnp.broadcast_to(jnp.asarray(avail), (n, *np.shape(avail)))


def test_uniform_over_available_actions_only(run):
    actions = run(exploration.uniform_available)(jax.random.key(0), _rows(AVAIL, DRAWS))
    counts = np.bincount(actions, minlength=len(AVAIL))
    assert actions.dtype == jnp.int32
    assert counts[~AVAIL].sum() == 0
    expected = DRAWS / AVAIL.sum()
    chi_square = np.sum((counts[AVAIL] - expected) ** 2 / expected)
    assert chi_square < 16.27  # three degrees of freedom, one chance in a thousand


def test_a_single_available_action_is_certain(run):
    avail = jnp.eye(5, dtype=bool)
    for seed in range(20):
        actions = run(exploration.uniform_available)(jax.random.key(seed), avail)
        np.testing.assert_array_equal(actions, np.arange(5))


def test_epsilon_zero_is_greedy(run):
    q = jax.random.normal(jax.random.key(0), (200, 6)) - 5.0
    actions = run(exploration.epsilon_greedy)(
        jax.random.key(1), q, _rows(AVAIL, 200), jnp.float32(0.0)
    )
    np.testing.assert_array_equal(actions, np.argmax(np.where(AVAIL, q, -np.inf), axis=-1))


def test_epsilon_one_is_uniform(run):
    q = jnp.broadcast_to(jnp.array([9.0, 8.0, 1.0, 2.0, 9.0, 3.0]), (DRAWS, 6))
    actions = run(exploration.epsilon_greedy)(
        jax.random.key(0), q, _rows(AVAIL, DRAWS), jnp.float32(1.0)
    )
    counts = np.bincount(actions, minlength=6)
    assert counts[~AVAIL].sum() == 0
    expected = DRAWS / AVAIL.sum()
    assert np.sum((counts[AVAIL] - expected) ** 2 / expected) < 16.27


def test_agents_explore_independently(run):
    """Four actions, epsilon 0.3: one agent errs with probability 0.3 * 3/4 = 0.225 and two err
    together with 0.225**2 = 0.051; one Bernoulli per team would make that 0.3 * 9/16 = 0.169."""
    q = jnp.broadcast_to(jnp.array([1.0, 0.0, 0.0, 0.0]), (DRAWS, 2, 4))
    actions = run(exploration.epsilon_greedy)(
        jax.random.key(0), q, jnp.ones((DRAWS, 2, 4), bool), jnp.float32(0.3)
    )
    erred = np.asarray(actions) != 0
    np.testing.assert_allclose(erred.mean(axis=0), 0.225, atol=0.012)  # four deviations
    np.testing.assert_allclose(erred.all(axis=1).mean(), 0.225**2, atol=0.0063)


def test_exploring_and_the_explored_action_are_independent(run):
    """With one stream for both, the explored action would depend on the draw that chose it."""
    q = jnp.broadcast_to(jnp.array([1.0, 0.0, 0.0, 0.0]), (DRAWS, 4))
    actions = run(exploration.epsilon_greedy)(
        jax.random.key(0), q, jnp.ones((DRAWS, 4), bool), jnp.float32(0.3)
    )
    counts = np.bincount(actions, minlength=4)[1:]
    expected = counts.mean()
    assert np.sum((counts - expected) ** 2 / expected) < 13.82  # two degrees, one in a thousand
