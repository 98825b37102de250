"""Measures the values that algorithms learn on small games, over seeds."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from qmix_jax import api, population, program, reprs
from qmix_jax.console import learning_curves
from qmix_jax.envs import base
from qmix_jax.lab import projections
from qmix_jax.types import Array, EnvSpec, Trajectory

_TOLERANCE = 1e-3
"""Relative to the range of a table: smaller differences of joint values are ties."""


class PointResult(NamedTuple):
    """Joint values that one algorithm learnt at one decision point.

    Attributes:
      name: of the decision point.
      table: f64[A1, A2], joint values, mean over seeds; None for algorithms without joint values.
      violations: number of seeds in which the agents' greedy actions are not the best joint action
        (IGM); None if `table` is.
      errors: name of an exact table -> largest deviation of `table` from it.
      unrestricted: f64[A1, A2], like `table`, of the joint value that is not restricted by the
        agents' utilities (QTRAN's Q_jt, weighted QMIX's Q*); None if there is none.
    """

    name: str
    table: np.ndarray | None
    violations: int | None
    errors: Mapping[str, float]
    unrestricted: np.ndarray | None = None


class GameTables(NamedTuple):
    """Values that members of a run learnt on a game, in reward units, an array per decision point.

    Attributes:
      points: the decision points; `optimal` and `exact` are the references.
      utilities: f[P, N, A], NaN for actions that an agent lacks.
      joint: f[P, A1, ..., AN], joint values; None for algorithms without them.
      unrestricted: like `joint`, of the joint value that is not restricted by the utilities
        (QTRAN's Q_jt, weighted QMIX's Q*); None if there is none.
    """

    points: Sequence[base.DecisionPoint]
    utilities: Sequence[np.ndarray]
    joint: Sequence[np.ndarray] | None
    unrestricted: Sequence[np.ndarray] | None

    def summary(self) -> dict[str, Any]:
        """Fields of `repr`: names of the decision points, and shapes of the tables."""
        tables = {name: getattr(self, name) for name in ("utilities", "joint", "unrestricted")}
        shapes = {
            name: [np.shape(array) for array in arrays]
            for name, arrays in tables.items()
            if arrays is not None
        }
        return {"points": [point.name for point in self.points], **shapes}

    __repr__, _repr_html_ = reprs.text, reprs.html


class GameResult(NamedTuple):
    """One algorithm on one game.

    Attributes:
      game, algo: names.
      seeds: number of seeds.
      reached: greedy return, rounded to a tenth -> number of seeds, the best first.
      points: one per decision point.
    """

    game: str
    algo: str
    seeds: int
    reached: Mapping[float, int]
    points: Sequence[PointResult]


def game_tables(result: api.Result) -> GameTables | None:
    """Tabulates the values that a run learnt at the decision points of a matrix game.

    Args:
      result: from `train` or `load_run`; its final parameters are tabulated.
    Returns:
      A `GameTables`; None if the environment has no decision points, or the algorithm no utilities
      to inspect.
    """
    env = program.environment(result.config)
    spec, points = env.spec, env.game.decision_points if env.game is not None else ()
    inspect = program.make_algorithm(result.config, spec).inspect
    if not points or inspect is None:
        return None
    plays, joint = _every_play(spec, points)
    names = ("utilities", "q_tot", "q_joint")

    def values_of(params: Any) -> dict[str, Array]:
        return {name: x[0] for name, x in inspect(params, plays).items() if name in names}

    values = population.map_members(values_of, result.parameters)
    if "utilities" not in values:
        return None
    scale = result.config.hparams.reward_scale

    def tables(name: str) -> list[np.ndarray] | None:
        if name not in values:
            return None
        by_point = values[name].reshape(-1, len(points), *spec.actions.sizes)
        return [by_point[:, i] / scale for i in range(len(points))]

    by_action = values["utilities"].reshape(-1, len(points), *joint.shape, spec.actions.width)
    utilities = np.where(spec.actions.exists, by_action[:, :, 0], np.nan) / scale
    return GameTables(
        points=points,
        utilities=[utilities[:, i] for i in range(len(points))],
        joint=tables("q_tot"),
        unrestricted=tables("q_joint"),
    )


def _every_play(
    spec: EnvSpec, points: Sequence[base.DecisionPoint]
) -> tuple[Trajectory, np.ndarray]:
    """Returns one-step episodes with every joint action at every decision point, and the joint
    actions, i32[K, N].
    """
    joint = np.indices(spec.actions.sizes, np.int32).reshape(spec.n_agents, -1).T
    n_plays = len(points) * len(joint)

    def both_steps(values: Any) -> Array:
        repeated = np.repeat(np.asarray(values), len(joint), axis=0)
        return jnp.asarray(np.stack([repeated, repeated]))

    trajectory = Trajectory(
        obs=both_steps([point.obs for point in points]),
        state=both_steps([point.state for point in points]),
        avail_actions=both_steps([spec.actions.exists] * len(points)),
        reset=jnp.ones((2, n_plays), bool),
        actions=jnp.asarray(np.tile(joint, (len(points), 1)))[None],
        reward=jnp.zeros((1, n_plays)),
        terminated=jnp.ones((1, n_plays), bool),
        valid=jnp.ones((1, n_plays), bool),
    )
    return trajectory, joint


def exact_tables(point: base.DecisionPoint) -> dict[str, np.ndarray]:
    """Returns joint values f64[A1, A2]: `optimal`, and their `additive` and `monotonic` fits."""
    optimal = np.asarray(point.optimal, np.float64)
    return {
        "optimal": optimal,
        "additive": np.asarray(point.exact["additive"], np.float64),
        "monotonic": projections.monotone_fit(optimal),
    }


def game_result(game: str, algo: str, result: api.Result, tables: GameTables) -> GameResult:
    """Compares the values of a run with exact ones.

    Args:
      game, algo: names for the result.
      result: the run, for its evaluations.
      tables: values that the run learnt.
    """
    _, returns = learning_curves.series(result.metrics, "eval/return")
    # + 0.0 turns -0.0 into 0.0
    reached = collections.Counter(float(value) + 0.0 for value in np.round(returns[:, -1], 1))
    return GameResult(
        game=game,
        algo=algo,
        seeds=len(returns),
        reached=dict(sorted(reached.items(), reverse=True)),
        points=[_point_result(i, point, tables) for i, point in enumerate(tables.points)],
    )


def _point_result(i: int, point: base.DecisionPoint, tables: GameTables) -> PointResult:
    if tables.joint is None:
        return PointResult(point.name, None, None, {})
    mean = np.asarray(tables.joint[i], np.float64).mean(axis=0)
    free = tables.unrestricted
    return PointResult(
        name=point.name,
        table=mean,
        violations=igm_violations(tables.joint[i], tables.utilities[i]),
        errors={
            name: float(np.max(np.abs(mean - table))) for name, table in exact_tables(point).items()
        },
        unrestricted=None if free is None else np.asarray(free[i], np.float64).mean(axis=0),
    )


def igm_violations(tables: np.ndarray, utilities: np.ndarray) -> int:
    """Counts seeds whose greedy actions are not the best joint action, by brute force.

    Args:
      tables: f[P, A1, ..., AN], joint values.
      utilities: f[P, N, A].
    """
    flat = np.reshape(np.asarray(tables, np.float64), (len(tables), -1))
    best, worst = flat.max(axis=1), flat.min(axis=1)
    greedy = np.moveaxis(np.nanargmax(utilities, axis=-1), -1, 0)
    chosen = np.asarray(tables, np.float64)[(np.arange(len(tables)), *greedy)]
    return int(np.sum(best - chosen > _TOLERANCE * (best - worst)))
