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
TERMINATED = jnp.array([False, False, True])
CHAIN = jnp.array([True, True, False])
V_NEXT = jnp.array([1.0, 1.5, 7.0])  # of the best actions of states 1, 2 and after the end
Q_NEXT = jnp.array([1.0, 1.2, 7.0])  # of the executed ones: greedy in state 1, not in state 2


def _watkins(*arguments):
    *others, chain = arguments
    return returns.q_lambda(*others, chain & (Q_NEXT == V_NEXT))


@pytest.mark.parametrize(
    ("function", "baseline", "expected"),
    [
        (returns.q_lambda, V_NEXT, [2.15875, 1.575, 2.0]),
        (returns.q_lambda, Q_NEXT, [2.2195, 1.71, 2.0]),
        (_watkins, V_NEXT, [2.0575, 1.35, 2.0]),
    ],
    ids=["peng", "harutyunyan", "watkins"],
)
def test_q_lambda_by_hand(run, function, baseline, expected):
    """Backwards from 2 at the end, for example Harutyunyan: 0 + 0.9 * (1.5 + 0.5 * (2 - 1.2)), then
    1 + 0.9 * (1 + 0.5 * (1.71 - 1))."""
    target = run(function)(REWARD, TERMINATED, V_NEXT, baseline, GAMMA, LAMBDA, CHAIN)
    np.testing.assert_allclose(target, expected, rtol=1e-6)


def test_q_lambda_through_a_time_limit_by_hand(run):
    """3.8 = 2 + 0.9 * 2 at the end, then 0.9 * (0.5 * 1.5 + 0.5 * 3.8), and
    1 + 0.9 * (0.5 * 1 + 0.5 * 2.385)."""
    value_next = jnp.array([1.0, 1.5, 2.0])
    arguments = (REWARD, jnp.zeros(3, bool), value_next, value_next, GAMMA, LAMBDA, CHAIN)
    np.testing.assert_allclose(run(returns.q_lambda)(*arguments), [2.52325, 2.385, 3.8], rtol=1e-6)


@pytest.mark.parametrize(
    ("n", "terminated", "value_next", "expected"),
    [
        (1, True, V_NEXT, [1.9, 1.35, 2.0]),
        (2, True, V_NEXT, [2.215, 1.8, 2.0]),
        (3, True, V_NEXT, [2.62, 1.8, 2.0]),
        (9, True, V_NEXT, [2.62, 1.8, 2.0]),
        (2, False, [1.0, 1.5, 2.0], [2.215, 3.42, 3.8]),
    ],
)
def test_n_step_by_hand(run, n, terminated, value_next, expected):
    """n = 2: 1 + 0.9 * 0 + 0.81 * 1.5, then 0 + 0.9 * 2 and, through a time limit, 0.81 * 2."""
    function = run(lambda *rest: returns.n_step(*rest[:-1], n, rest[-1]))
    ends = TERMINATED & terminated
    target = function(REWARD, ends, jnp.asarray(value_next), GAMMA, CHAIN)
    np.testing.assert_allclose(target, expected, rtol=1e-6)


def test_lambda_zero_is_one_step_and_lambda_one_sums_rewards(run):
    """At lambda 1, Harutyunyan's baseline adds the cost of exploration back: 0.9 * 0.3 in state 2,
    0.81 * 0.3 before."""
    function = run(returns.q_lambda)
    for baseline, loss in ((V_NEXT, 0.0), (Q_NEXT, 0.3)):
        one_step, monte_carlo = (
            function(REWARD, TERMINATED, V_NEXT, baseline, GAMMA, jnp.float32(td_lambda), CHAIN)
            for td_lambda in (0.0, 1.0)
        )
        np.testing.assert_allclose(one_step, [1.9, 1.35, 2.0], rtol=1e-6)
        sums = [1.0 + 0.81 * (2.0 + loss), 0.9 * (2.0 + loss), 2.0]
        np.testing.assert_allclose(monte_carlo, sums, rtol=1e-6)


@pytest.mark.parametrize("n", [None, 1, 3, 20], ids=["lambda", "n=1", "n=3", "n=20"])
def test_multi_step_targets_agree_with_loops_and_ignore_values_behind_a_cut(run, n):
    """Steps that no chain reaches hold NaN."""
    rng = np.random.default_rng(0)
    reward, value_next, baseline = rng.standard_normal((3, 9, 4, 2), dtype=np.float32)
    terminated = rng.random((9, 4, 2)) < 0.2
    chain = rng.random((9, 4, 2)) < 0.7
    chain[-1] = False
    reward[1:][~chain[:-1] & (rng.random((8, 4, 2)) < 0.5)] = np.nan
    value_next[terminated] = np.inf
    baseline[~chain] = np.nan
    if n is None:
        args = (baseline, 0.9, 0.5, chain)
        target = run(returns.q_lambda)(reward, terminated, value_next, *map(jnp.asarray, args))
        expected = oracles.q_lambda(reward, terminated, value_next, *args)
    else:
        function = run(lambda *inputs: returns.n_step(*inputs, GAMMA, n, chain))
        target = function(reward, terminated, value_next)
        expected = oracles.n_step(reward, terminated, value_next, 0.9, n, chain)
    assert np.isnan(expected).any() and np.isfinite(expected).any()
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-6)


def test_no_gradient_flows_through_multi_step_targets(run):
    def total(reward, value_next, baseline, gamma, td_lambda):
        flags = jnp.zeros(3, bool), CHAIN
        args = (value_next, baseline, gamma, td_lambda)
        return jnp.sum(
            returns.q_lambda(reward, flags[0], *args, flags[1])
            + returns.n_step(reward, flags[0], value_next, gamma, 2, flags[1])
        )

    inputs = (REWARD, REWARD + 1.0, REWARD + 2.0, GAMMA, LAMBDA)
    for gradient in run(jax.grad(total, argnums=(0, 1, 2, 3, 4)))(*inputs):
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
def test_shapes_that_would_broadcast_are_refused(terminated):
    with pytest.raises(AssertionError):
        returns.one_step(REWARD, terminated, REWARD, GAMMA)
    with pytest.raises(AssertionError):
        returns.q_lambda(REWARD, terminated, REWARD, REWARD, GAMMA, LAMBDA, CHAIN)
    with pytest.raises(AssertionError):
        returns.n_step(REWARD, terminated, REWARD, GAMMA, 2, CHAIN)
