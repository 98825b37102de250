"""What an algorithm came to on a small game, over seeds: numbers without pictures."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qmix_jax.envs import base
from qmix_jax.laboratory import projections
from qmix_jax.runtime import report

_TOLERANCE = 1e-3
"""Relative to the range of a table: smaller differences of joint values are ties."""


class Point(NamedTuple):
    """One decision point of a game as one algorithm learnt it.

    Attributes:
      name: of the decision point.
      table: f64[A1, A2], joint values, mean over seeds; None where there is no joint value.
      violations: seeds whose agents' own best actions are not the best joint action (IGM); None
        where there is no joint value.
      errors: name of an exact table -> largest deviation of `table` from it.
      unrestricted: f64[A1, A2], as `table`, of the joint value that is not bound to the agents'
        utilities (QTRAN's Q_jt, weighted QMIX's Q*); None where there is none.
    """

    name: str
    table: np.ndarray | None
    violations: int | None
    errors: Mapping[str, float]
    unrestricted: np.ndarray | None = None


class Learnt(NamedTuple):
    """What the members learnt, an array per decision point: joint values f[P, A1, A2] and
    unrestricted ones, None where there are none, and utilities f[P, N, A].
    """

    joint: Sequence[np.ndarray] | None
    unrestricted: Sequence[np.ndarray] | None
    utilities: Sequence[np.ndarray]


class Cell(NamedTuple):
    """One algorithm on one game.

    Attributes:
      game, algo: what to call them.
      seeds: how many.
      reached: greedy return, rounded to a tenth -> number of seeds, the best first.
      points: one per decision point.
    """

    game: str
    algo: str
    seeds: int
    reached: Mapping[float, int]
    points: Sequence[Point]


def exact_tables(point: base.DecisionPoint) -> dict[str, np.ndarray]:
    """The optimal joint values f64[A1, A2] and what the classes of factorisations can make of them:
    `optimal`, `additive` and `monotonic`.
    """
    optimal = np.asarray(point.optimal, np.float64)
    return {
        "optimal": optimal,
        "additive": np.asarray(point.exact["additive"], np.float64),
        "monotonic": projections.monotone_fit(optimal),
    }


def cell(
    game: str,
    algo: str,
    result: Any,
    points: Sequence[base.DecisionPoint],
    learnt: Learnt,
) -> Cell:
    """Measures a run.

    Args:
      result: `api.Result`.
      points: decision points of the environment.
      learnt: one array per point.
    """
    _, returns = report.series(result.metrics, "eval/return")
    reached = collections.Counter(float(value) + 0.0 for value in np.round(returns[:, -1], 1))
    return Cell(
        game=game,
        algo=algo,
        seeds=len(returns),
        reached=dict(sorted(reached.items(), reverse=True)),
        points=[_point(point, learnt, i) for i, point in enumerate(points)],
    )


def _point(point: base.DecisionPoint, learnt: Learnt, number: int) -> Point:
    if learnt.joint is None:
        return Point(point.name, None, None, {})
    exact = exact_tables(point)
    tables = learnt.joint[number]
    mean = _mean(tables)
    return Point(
        name=point.name,
        table=mean,
        violations=violations(tables, learnt.utilities[number]),
        errors={name: float(np.max(np.abs(mean - table))) for name, table in exact.items()},
        unrestricted=None if learnt.unrestricted is None else _mean(learnt.unrestricted[number]),
    )


def _mean(tables: np.ndarray) -> np.ndarray:
    return np.mean(np.asarray(tables, np.float64), axis=0)


def violations(tables: np.ndarray, utilities: np.ndarray) -> int:
    """Seeds in which the agents' own best actions miss the best joint action, by brute force.

    Args:
      tables: f[P, A1, ..., AN], joint values.
      utilities: f[P, N, A].
    """
    flat = np.reshape(np.asarray(tables, np.float64), (len(tables), -1))
    best, worst = flat.max(axis=1), flat.min(axis=1)
    greedy = np.moveaxis(np.argmax(utilities, axis=-1), -1, 0)
    chosen = np.asarray(tables, np.float64)[(np.arange(len(tables)), *greedy)]
    return int(np.sum(best - chosen > _TOLERANCE * (best - worst)))
