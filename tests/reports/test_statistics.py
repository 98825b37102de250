"""Statistics by hand, against slow loops and rliable, and the coverage of their intervals."""

import numpy as np
import pytest

from qmix_jax.reports import statistics
from qmix_jax.runs import scores


def rng(seed=0):
    return np.random.default_rng(seed)


def test_interquartile_mean_by_hand():
    iqm = scores.interquartile_mean
    assert iqm([4.0, 1.0, 3.0, 2.0]) == 2.5, "1 and 4 are dropped"
    assert iqm([0.0, 10.0, 20.0, 30.0, 400.0]) == 20.0, "one of five at either end"
    assert iqm([1.0, 2.0, 6.0]) == 3.0, "a quarter of three is no run"
    np.testing.assert_array_equal(iqm([[4.0, 1, 3, 2], [8, 8, 0, 8]]), [2.5, 8.0])


@pytest.mark.parametrize("n", range(1, 14))
def test_interquartile_mean_agrees_with_sorting(n):
    values = rng(n).normal(size=n)
    expected = np.sort(values)[n // 4 : n - n // 4].mean()
    assert scores.interquartile_mean(values) == pytest.approx(expected)


def test_strata_are_pooled_and_resampled_separately():
    """Equal runs within each task have no spread; resampled across tasks they would."""
    estimate = statistics.iqm_estimate([np.zeros(6), np.ones(6)], 200, rng())
    assert estimate == (0.5, 0.5, 0.5)
    share = statistics.profile([np.zeros(6), np.ones(6)], np.array([0.5]), 200, rng())
    assert share == (0.5, 0.5, 0.5)
    uneven = statistics.iqm_estimate([np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])], 200, rng())
    assert uneven.value == 3.0


def test_intervals_of_a_curve_equal_those_of_its_points():
    curves = rng(1).normal(size=(7, 3))
    curve = statistics.iqm_estimate([curves], 500, rng(2))
    for k in range(3):
        alone = statistics.iqm_estimate([curves[:, k]], 500, rng(2))
        assert (curve.value[k], curve.low[k], curve.high[k]) == alone
        assert alone.low < alone.value < alone.high


def test_a_single_run_has_no_interval():
    single, pair = np.array([0.5]), np.array([0.25, 0.75])
    for estimate in (
        statistics.iqm_estimate([pair, single], 50, rng()),
        statistics.improvement([pair], [single], 50, rng()),
        statistics.profile([single], np.array([0.3]), 50, rng()),
    ):
        assert np.isfinite(estimate.value).all()
        assert np.isnan(estimate.low).all() and np.isnan(estimate.high).all()


def test_probability_of_improvement_by_hand():
    x, y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0])
    estimate = statistics.improvement([x], [y], 500, rng())
    assert estimate.value == pytest.approx(1.5 / 6), "3 beats 2; 2 and 2 are a tie"
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    reverse = statistics.improvement([y], [x], 500, rng())
    assert estimate.value + reverse.value == pytest.approx(1)
    two_tasks = statistics.improvement([x, np.ones(2)], [y, np.zeros(9)], 500, rng())
    assert two_tasks.value == pytest.approx((0.25 + 1) / 2), "the mean over tasks, not over pairs"


def test_improvement_intervals_agree_with_a_slow_loop():
    x = [rng(3).normal(0.4, 1, 8), rng(4).normal(0.2, 1, 5)]
    y = [rng(5).normal(0.0, 1, 6), rng(6).normal(0.0, 1, 7)]
    draws, slow = rng(7), []
    for _ in range(4_000):
        again = [[draws.choice(task, len(task)) for task in side] for side in (x, y)]
        wins = [np.mean(a[:, None] > b[None]) for a, b in zip(*again, strict=True)]
        slow.append(np.mean(wins))
    estimate = statistics.improvement(x, y, 4_000, rng(8))
    np.testing.assert_allclose(estimate[1:], np.percentile(slow, [2.5, 97.5]), atol=0.02)


def test_profile_by_hand():
    taus = np.array([0.0, 0.25, 0.5, 1.0])
    estimate = statistics.profile([np.array([0.25, 0.5]), np.array([1.0, 1.0])], taus, 300, rng())
    np.testing.assert_array_equal(estimate.value, [1.0, 0.75, 0.5, 0.0])
    np.testing.assert_array_equal(estimate.high, [1.0, 1.0, 0.5, 0.0])
    np.testing.assert_array_equal(estimate.low, [1.0, 0.5, 0.5, 0.0])


@pytest.mark.parametrize(
    ("n_runs", "least", "most"), [(3, 0.66, 0.79), (5, 0.85, 0.94), (30, 0.91, 0.98)]
)
def test_coverage_of_the_interval(n_runs, least, most):
    """Of 95 % intervals for the centre of a normal distribution; too low with few runs."""
    draws = rng(9)
    hits = []
    for _ in range(600):
        estimate = statistics.iqm_estimate([draws.normal(size=n_runs)], 400, draws)
        hits.append(estimate.low <= 0 <= estimate.high)
    assert least < np.mean(hits) < most


@pytest.fixture
def rliable():
    pytest.importorskip("rliable", reason="part of the test extra")
    from rliable import library, metrics

    np.random.seed(0)  # noqa: NPY002 (rliable uses the global generator)
    return library, metrics


@pytest.fixture
def matrices():
    """Scores [runs, tasks] of two algorithms, with ties."""
    x = rng(10).normal([0.3, 0.5, 0.7], 0.2, (10, 3)).round(2)
    y = rng(11).normal([0.2, 0.5, 0.5], 0.2, (10, 3)).round(2)
    return x, y


def test_interquartile_mean_agrees_with_rliable(rliable, matrices):
    library, metrics = rliable
    x, _ = matrices
    values, ends = library.get_interval_estimates(
        {"x": x}, lambda scores: np.array([metrics.aggregate_iqm(scores)]), reps=5_000
    )
    ours = statistics.iqm_estimate(list(x.T), 5_000, rng())
    assert ours.value == pytest.approx(values["x"][0], rel=1e-12)
    np.testing.assert_allclose(ours[1:], ends["x"][:, 0], atol=0.01)


def test_improvement_agrees_with_rliable(rliable, matrices):
    library, metrics = rliable
    x, y = matrices
    values, ends = library.get_interval_estimates(
        {"x,y": (x, y)}, metrics.probability_of_improvement, reps=1_000
    )
    ours = statistics.improvement(list(x.T), list(y.T), 5_000, rng())
    assert ours.value == pytest.approx(float(values["x,y"]), rel=1e-12)
    np.testing.assert_allclose(ours[1:], np.ravel(ends["x,y"]), atol=0.03)


def test_profile_agrees_with_rliable(rliable, matrices):
    library, _ = rliable
    x, _ = matrices
    taus = np.linspace(0, 1, 21)
    values, ends = library.create_performance_profile({"x": x}, taus, reps=2_000)
    ours = statistics.profile(list(x.T), taus, 5_000, rng())
    np.testing.assert_allclose(ours.value, values["x"], rtol=1e-12)
    np.testing.assert_allclose([ours.low, ours.high], ends["x"], atol=0.05)
