"""Exact least-squares projections of a payoff onto classes of value factorisations, with all joint
actions equally likely: the reference for learnt values.
"""

import itertools

import numpy as np
from scipy import optimize


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
    return min(fits, key=lambda fit: round(float(np.sum((fit - payoff) ** 2)), 9))  # first of ties


def isotonic(table: np.ndarray) -> np.ndarray:
    """Least-squares fit that rises along both axes, f64[A1, A2].

    Solves the dual, non-negative least squares over multipliers of the constraints
    `rises @ fit >= 0`.
    """
    cells = np.eye(table.size).reshape(*table.shape, table.size)
    rises = np.concatenate([np.diff(cells, axis=k).reshape(-1, table.size) for k in (0, 1)])
    multipliers, _ = optimize.nnls(rises.T, -table.ravel())
    return table + (rises.T @ multipliers).reshape(table.shape)
