"""Exact least-squares projections of a payoff onto classes of value factorisations, where all joint
actions are equally likely: the reference for learnt values.
"""

import itertools

import numpy as np
from scipy import optimize

_ROUNDS = 5_000
_TOLERANCE = 1e-10


def monotone_fit(payoff: np.ndarray) -> np.ndarray:
    """The least-squares fit among tables that are monotonic in utilities of each agent (QMIX).

    A table is monotonic in some utilities exactly if the actions of each agent can be ordered so
    that it rises along every axis. For given orders the fit is an isotonic regression, a convex
    problem; here every combination of orders is tried, so the fit is the global one. Gradient
    descent may end in that of other orders.

    Args:
      payoff: f[A1, A2], two agents.
    Returns:
      f64[A1, A2].
    Reference: Rashid et al. 2020 (WQMIX), section 3, which defines the projection.
    """
    payoff = np.asarray(payoff, np.float64)
    orders = itertools.product(*(itertools.permutations(range(n)) for n in payoff.shape))
    fits = (_fit_in_order(payoff, np.ix_(*order)) for order in orders)
    return min(fits, key=lambda fit: float(np.sum((fit - payoff) ** 2)))


def _fit_in_order(payoff: np.ndarray, places: tuple[np.ndarray, ...]) -> np.ndarray:
    fit = np.empty_like(payoff)
    fit[places] = isotonic(payoff[places])
    return fit


def isotonic(table: np.ndarray) -> np.ndarray:
    """Least-squares fit that rises along both axes, f64[A1, A2].

    Dykstra's alternating projections between tables that rise along one axis or the other.
    """
    fit, corrections = table.copy(), [np.zeros_like(table), np.zeros_like(table)]
    for _ in range(_ROUNDS):
        before = fit
        for axis in (0, 1):
            wanted = fit + corrections[axis]
            fit = np.apply_along_axis(_rising, axis, wanted)
            corrections[axis] = wanted - fit
        if np.abs(fit - before).max() < _TOLERANCE:
            break
    return fit


def _rising(values: np.ndarray) -> np.ndarray:
    return optimize.isotonic_regression(values).x
