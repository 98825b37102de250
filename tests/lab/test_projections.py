"""The best monotonic table: known optima, and a comparison with a general solver."""

import itertools

import numpy as np
import pytest
from scipy import optimize

from qmix_jax.lab import projections

Q3 = np.array([[8.0, -12, -12], [-12, 0, 0], [-12, 0, 0]])
HARD = np.array([[8.0, -12, -12], [-12, 6, 0], [-12, 0, 6]])
COORD = np.eye(2)


@pytest.mark.parametrize(("payoff", "error"), [(Q3, 288.0), (HARD, 344.0), (COORD, 2 / 3)])
def test_the_least_squared_error_is_as_published(payoff, error):
    fit = projections.monotone_fit(payoff)
    assert np.sum((fit - payoff) ** 2) == pytest.approx(error, abs=1e-6)


def test_the_best_fit_of_the_qtran_game_has_the_right_greedy_action():
    expected = np.full((3, 3), -6.0)
    expected[0, 0] = 8.0
    np.testing.assert_allclose(projections.monotone_fit(Q3), expected, atol=1e-6)


def test_a_monotonic_table_is_its_own_fit():
    table = np.array([[0.0, 1], [1, 8]])
    np.testing.assert_allclose(projections.monotone_fit(table[::-1]), table[::-1], atol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_isotonic_agrees_with_a_general_solver(seed):
    table = np.random.default_rng(seed).normal(size=(3, 3))
    fit = projections.isotonic(table)
    assert (np.diff(fit, axis=0) >= -1e-8).all() and (np.diff(fit, axis=1) >= -1e-8).all()
    cells = list(itertools.product(range(3), range(3)))
    rises = [((i, j), (i + 1, j)) for i, j in cells if i < 2]
    rises += [((i, j), (i, j + 1)) for i, j in cells if j < 2]
    differences = np.zeros((len(rises), 9))
    for row, (low, high) in enumerate(rises):
        differences[row, cells.index(low)], differences[row, cells.index(high)] = -1.0, 1.0
    solved = optimize.minimize(
        lambda x: np.sum((x - table.ravel()) ** 2),
        np.zeros(9),
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda x: differences @ x},
        options={"ftol": 1e-12, "maxiter": 500},
    )
    np.testing.assert_allclose(fit.ravel(), solved.x, atol=1e-4)
