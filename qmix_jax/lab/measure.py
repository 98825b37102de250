"""What an algorithm learns on a small game, over seeds: numbers without pictures."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from qmix_jax import api, population, program
from qmix_jax.console import learning_curves
from qmix_jax.envs import base
from qmix_jax.lab import projections
from qmix_jax.types import Array, EnvSpec, Trajectory

_TOLERANCE = 1e-3
"""Relative to the range of a table: smaller differences of joint values are ties."""


class PointResult(NamedTuple):
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


class GameTables(NamedTuple):
    """What the members of a run learnt on a game, an array per decision point, in reward units.

    Attributes:
      points: the decision points; `optimal` and `exact` are what to compare with.
      utilities: f[P, N, A], NaN for actions that an agent lacks.
      joint: f[P, A1, ..., AN], joint values; None for algorithms without one.
      unrestricted: as `joint`, of the joint value that is not bound to the utilities (QTRAN's Q_jt,
        weighted QMIX's Q*); None where there is none.
    """

    points: Sequence[base.DecisionPoint]
    utilities: Sequence[np.ndarray]
    joint: Sequence[np.ndarray] | None
    unrestricted: Sequence[np.ndarray] | None


class GameResult(NamedTuple):
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
    points: Sequence[PointResult]


def game_tables(result: api.Result) -> GameTables | None:
    """Tabulates what a run learnt at the decision points of its environment (matrix games).

    Args:
      result: of `train`, or from `load_run`; its final parameters are tabulated.
    Returns:
      A `GameTables`; None where the environment has no decision points, or the algorithm does not
      show its utilities.
    """
    env = program.environment(result.config)
    spec, points = env.spec, env.game.decision_points if env.game is not None else ()
    inspect = program.make_algorithm(result.config, spec).inspect
    if not points or inspect is None:
        return None
    plays = _every_play(spec, points)
    names = ("utilities", "q_tot", "q_joint")

    def look(params: Any) -> dict[str, Array]:
        return {name: x[0] for name, x in inspect(params, plays).items() if name in names}

    seen = population.map_members(look, result.parameters)
    if "utilities" not in seen:
        return None
    scale = result.config.hparams.reward_scale

    def tables(name: str) -> list[np.ndarray] | None:
        if name not in seen:
            return None
        by_point = seen[name].reshape(-1, len(points), *spec.actions.sizes)
        return [by_point[:, i] / scale for i in range(len(points))]

    every = seen["utilities"].reshape(-1, len(points), *_joint(spec).shape, spec.actions.width)
    utilities = np.where(spec.actions.exists, every[:, :, 0], np.nan) / scale
    return GameTables(
        points=points,
        utilities=[utilities[:, i] for i in range(len(points))],
        joint=tables("q_tot"),
        unrestricted=tables("q_joint"),
    )


def _joint(spec: EnvSpec) -> np.ndarray:
    """i32[K, N], every joint action."""
    return np.indices(spec.actions.sizes, np.int32).reshape(spec.n_agents, -1).T


def _every_play(spec: EnvSpec, points: Sequence[base.DecisionPoint]) -> Trajectory:
    """Episodes of one step, in which every joint action is played at every decision point."""
    joint = _joint(spec)
    n_plays = len(points) * len(joint)

    def twice(values: Any) -> Array:
        repeated = np.repeat(np.asarray(values), len(joint), axis=0)
        return jnp.asarray(np.stack([repeated, repeated]))

    return Trajectory(
        obs=twice([point.obs for point in points]),
        state=twice([point.state for point in points]),
        avail_actions=twice([spec.actions.exists] * len(points)),
        reset=jnp.ones((2, n_plays), bool),
        actions=jnp.asarray(np.tile(joint, (len(points), 1)))[None],
        reward=jnp.zeros((1, n_plays)),
        terminated=jnp.ones((1, n_plays), bool),
        valid=jnp.ones((1, n_plays), bool),
    )


def exact_tables(point: base.DecisionPoint) -> dict[str, np.ndarray]:
    """Joint values f64[A1, A2]: `optimal`, and their best `additive` and `monotonic` fits."""
    optimal = np.asarray(point.optimal, np.float64)
    return {
        "optimal": optimal,
        "additive": np.asarray(point.exact["additive"], np.float64),
        "monotonic": projections.monotone_fit(optimal),
    }


def cell(
    game: str,
    algo: str,
    result: api.Result,
    learnt: GameTables,
) -> GameResult:
    """Measures a run.

    Args:
      game, algo: what to call them.
      result: its returns.
      learnt: its tables.
    """
    _, returns = learning_curves.series(result.metrics, "eval/return")
    reached = collections.Counter(float(value) + 0.0 for value in np.round(returns[:, -1], 1))
    return GameResult(
        game=game,
        algo=algo,
        seeds=len(returns),
        reached=dict(sorted(reached.items(), reverse=True)),
        points=[_point(point, learnt, i) for i, point in enumerate(learnt.points)],
    )


def _point(point: base.DecisionPoint, learnt: GameTables, number: int) -> PointResult:
    if learnt.joint is None:
        return PointResult(point.name, None, None, {})
    exact = exact_tables(point)
    tables = learnt.joint[number]
    mean = _mean(tables)
    return PointResult(
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
    greedy = np.moveaxis(np.nanargmax(utilities, axis=-1), -1, 0)
    chosen = np.asarray(tables, np.float64)[(np.arange(len(tables)), *greedy)]
    return int(np.sum(best - chosen > _TOLERANCE * (best - worst)))
