"""Tables of the lab, for the terminal, as Markdown and as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import rich.box
import rich.table

from qmix_jax import api
from qmix_jax.console import learning_curves
from qmix_jax.envs import base
from qmix_jax.lab import measure

_INTRODUCTION = """# Learnt and exact joint values of small games

Written by `qmix-jax lab`. Training plays every joint action equally often (exploration 1), so a
learnt table can be compared with the least-squares projections of the payoff on two classes:
*additive* tables, a sum of per-agent values (VDN, VDN-S, QMIX-Lin, Qatten), and *monotonic* tables
(QMIX, QMIX-NS; the best over all orders of the actions, which gradient descent may miss).

- *reached*: greedy return, and the number of seeds.
- *IGM*: number of seeds in which the agents' greedy actions are not the best joint action of the
  learnt table.
- *to ...*: largest deviation of the mean table over seeds from the payoff or its projection.
"""
_COLUMNS = ("reached", "IGM", "to optimal", "to additive", "to monotonic")


def print_learnt(result: api.Result) -> None:
    """Prints learnt and exact values of a matrix game; nothing for other environments, nor in the
    second and later processes of a distributed run.
    """
    tables = measure.game_tables(result) if jax.process_index() == 0 else None
    if tables is None:
        return
    if tables.joint is None:
        learning_curves.utility_tables(tables.points, tables.utilities)
    elif tables.joint[0].ndim == 3:  # members, and two agents
        learning_curves.joint_tables(tables.points, tables.joint)


def plain(result: measure.GameResult) -> dict[str, Any]:
    """Returns the result as JSON values."""
    points = []
    for point in result.points:
        arrays = {"table": point.table, "unrestricted": point.unrestricted}
        lists = {name: None if x is None else x.tolist() for name, x in arrays.items()}
        points.append({**point._asdict(), "errors": dict(point.errors), **lists})
    reached = [{"return": value, "seeds": n} for value, n in result.reached.items()]
    return {**result._asdict(), "reached": reached, "points": points}


def table(game: str, results: Sequence[measure.GameResult]) -> rich.table.Table:
    """Returns the table of a game for the terminal, a row per algorithm."""
    grid = rich.table.Table(title=game, title_justify="left", box=rich.box.SIMPLE_HEAD)
    grid.add_column("algorithm")
    for column in _COLUMNS:
        grid.add_column(column, justify="left" if column == "reached" else "right")
    for result in results:
        grid.add_row(result.algo, *_row(result))
    return grid


def markdown(
    games: Mapping[str, Sequence[measure.GameResult]],
    points: Mapping[str, Sequence[base.DecisionPoint]],
) -> str:
    """Returns the page as Markdown."""
    parts = [_INTRODUCTION]
    for game, results in games.items():
        parts.append(f"## {game}\n\n" + "\n".join(map(_exact, points[game])) + "\n")
        head = f"| algorithm | {' | '.join(_COLUMNS)} |\n|{'---|' * (len(_COLUMNS) + 1)}"
        rows = (f"| {result.algo} | {' | '.join(_row(result))} |" for result in results)
        parts.append("\n".join((head, *rows)) + "\n")
        parts.append(f"![Learnt joint values of {game}]({game}.png)\n")
    return "\n".join(parts)


def _exact(point: base.DecisionPoint) -> str:
    texts = []
    for name, values in measure.exact_tables(point).items():
        rows = (" ".join(f"{value:g}" for value in row) for row in values.round(2))
        texts.append(f"{name} `[{' / '.join(rows)}]`")
    return f"- `{point.name}`: " + "; ".join(texts)


def _row(result: measure.GameResult) -> list[str]:
    reached = ", ".join(f"{value:g}: {n}" for value, n in result.reached.items())
    if any(point.violations is None for point in result.points):
        return [reached, "-", "-", "-", "-"]
    errors = [
        max(point.errors[name] for point in result.points)
        for name in ("optimal", "additive", "monotonic")
    ]
    violations = sum(point.violations or 0 for point in result.points)
    return [reached, str(violations), *(f"{error:.2f}" for error in errors)]
