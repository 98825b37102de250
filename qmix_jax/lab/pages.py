"""Tables of games and of the lab, for the terminal and as a Markdown page."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import rich.box
import rich.table

from qmix_jax import api
from qmix_jax.console import learning_curves
from qmix_jax.envs import base
from qmix_jax.lab import measure

_HEAD = """# What each algorithm learns on games that can be solved exactly

Written by `qmix-jax lab`. Every joint action is played equally often (exploration 1), so a learnt
table can be laid beside the least-squares projections of the payoff on two classes: *additive*
tables, a sum of per-agent values (VDN, VDN-S, QMIX-Lin, Qatten), and *monotonic* ones (QMIX,
QMIX-NS; the best over all orders of the actions, which gradient descent need not find).

- *reached*: greedy return, and the number of seeds.
- *IGM*: seeds whose agents' own best actions are not the best joint action of the learnt table.
- *to ...*: largest deviation of the mean table over seeds from the payoff and the projections.
"""
_COLUMNS = ("reached", "IGM", "to optimal", "to additive", "to monotonic")


def learnt(result: api.Result) -> None:
    """Prints what a run learnt on a game beside the exact values; nothing for other environments,
    and nothing in the second and later processes of a distributed run.
    """
    tables = measure.game_tables(result) if jax.process_index() == 0 else None
    if tables is None:
        return
    if tables.joint is None:
        learning_curves.utility_tables(tables.points, tables.utilities)
    elif tables.joint[0].ndim == 3:  # members, and two agents
        learning_curves.joint_tables(tables.points, tables.joint)


def plain(cell: measure.GameResult) -> dict[str, Any]:
    """The cell for a JSON file."""
    points = [
        {
            **point._asdict(),
            "errors": dict(point.errors),
            **{name: _nested(getattr(point, name)) for name in ("table", "unrestricted")},
        }
        for point in cell.points
    ]
    reached = [{"return": value, "seeds": n} for value, n in cell.reached.items()]
    return {**cell._asdict(), "reached": reached, "points": points}


def _nested(values: np.ndarray | None) -> list[Any] | None:
    return None if values is None else values.tolist()


def table(game: str, cells: Sequence[measure.GameResult]) -> rich.table.Table:
    """One game for the terminal: a row per algorithm."""
    shown = rich.table.Table(title=game, title_justify="left", box=rich.box.SIMPLE_HEAD)
    shown.add_column("algorithm")
    for column in _COLUMNS:
        shown.add_column(column, justify="left" if column == "reached" else "right")
    for cell in cells:
        shown.add_row(cell.algo, *_row(cell))
    return shown


def markdown(
    games: Mapping[str, Sequence[measure.GameResult]],
    points: Mapping[str, Sequence[base.DecisionPoint]],
) -> str:
    """The page."""
    parts = [_HEAD]
    for game, cells in games.items():
        parts.append(f"## {game}\n\n" + "\n".join(map(_exact, points[game])) + "\n")
        head = f"| algorithm | {' | '.join(_COLUMNS)} |\n|{'---|' * (len(_COLUMNS) + 1)}"
        rows = (f"| {cell.algo} | {' | '.join(_row(cell))} |" for cell in cells)
        parts.append("\n".join((head, *rows)) + "\n")
        parts.append(f"![Learnt joint values of {game}]({game}.png)\n")
    return "\n".join(parts)


def _exact(point: base.DecisionPoint) -> str:
    found = (f"{name} {_numbers(values)}" for name, values in measure.exact_tables(point).items())
    return f"- `{point.name}`: " + "; ".join(found)


def _row(cell: measure.GameResult) -> list[str]:
    reached = ", ".join(f"{value:g}: {n}" for value, n in cell.reached.items())
    if any(point.violations is None for point in cell.points):
        return [reached, "-", "-", "-", "-"]
    worst = [
        max(point.errors[name] for point in cell.points)
        for name in ("optimal", "additive", "monotonic")
    ]
    broken = sum(point.violations or 0 for point in cell.points)
    return [reached, str(broken), *(f"{value:.2f}" for value in worst)]


def _numbers(values: Any) -> str:
    rows = (" ".join(f"{value:g}" for value in row) for row in values.round(2))
    return f"`[{' / '.join(rows)}]`"
