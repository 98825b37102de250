"""Exact least-squares projections of a payoff onto classes of value factorisations, with all joint
actions equally likely: the reference for learnt values.
"""

import itertools

import numpy as np
from scipy import optimize

_ROUNDS = 5_000
_TOLERANCE = 1e-10


def monotone_fit(payoff: np.ndarray) -> np.ndarray:
    """The least-squares fit among tables that are monotonic in utilities of each agent (QMIX).

    A table is monotonic in some utilities if and only if the actions of each agent can be ordered
    so that it rises along every axis. For a given order the fit is an isotonic regression, a convex
    problem. All combinations of orders are tried, so the fit is the global optimum; gradient
    descent may converge to the fit of another order.

    Args:
      payoff: f[A1, A2], two agents.
    Returns:
      f64[A1, A2].
    Reference: Rashid et al. 2020 (WQMIX), section 3, which defines the projection.
    """
    payoff = np.asarray(payoff, np.float64)
    fits = []
    for order in itertools.product(*(itertools.permutations(range(n)) for n in payoff.shape)):
        fit = np.empty_like(payoff)
        fit[np.ix_(*order)] = isotonic(payoff[np.ix_(*order)])
        fits.append(fit)
    return min(fits, key=lambda fit: float(np.sum((fit - payoff) ** 2)))


def isotonic(table: np.ndarray) -> np.ndarray:
    """Least-squares fit that rises along both axes, f64[A1, A2].

    Dykstra's alternating projections between tables that rise along one axis or the other.
    """
    fit, corrections = table.copy(), [np.zeros_like(table), np.zeros_like(table)]
    for _ in range(_ROUNDS):
        before = fit
        for axis in (0, 1):
            target = fit + corrections[axis]
            fit = np.apply_along_axis(lambda x: optimize.isotonic_regression(x).x, axis, target)
            corrections[axis] = target - fit
        if np.abs(fit - before).max() < _TOLERANCE:
            break
    return fit
