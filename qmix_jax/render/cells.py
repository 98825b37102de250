"""Grid worlds: pieces on a board.

Arrays of the scene, for each kind of piece: `<kind>` i32[K, 2], rows and columns, and
`<kind>_there` bool[K]. Facts: `rows`, `columns`; `kinds`, from each kind's name to a mapping with
`shape` (a Matplotlib marker), `colours` (one for all or one each), `size` (a share of a cell),
`numbered` and `offset` from the middle of a cell (rows, columns); `actors`, the kind that acts; and
`marked_action`: those whose last action it was wear a ring (None: nobody).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import collections, colors

from qmix_jax.render import base

_FRAMES_PER_STEP = 2


def make(episode: base.Episode, facts: Mapping[str, Any]) -> base.Painter:
    """The painter of an episode."""
    rows, columns = facts["rows"], facts["columns"]

    def draw(axes: mpl_axes.Axes, time: float) -> None:
        moment = base.between(time)
        base.window(axes, (-0.5, rows - 0.5), (columns - 0.5, -0.5))
        _draw_lines(axes, rows, columns)
        for name, kind in facts["kinds"].items():
            marked = None
            if name == facts["actors"] and moment.after > 0:
                marked = episode.actions[moment.after - 1] == facts["marked_action"]
            _draw_pieces(axes, episode.scene, name, kind, moment, marked)

    return base.Painter(draw, rows / columns, _FRAMES_PER_STEP, 4.0)


def _draw_lines(axes: mpl_axes.Axes, rows: int, columns: int) -> None:
    across = [[(-0.5, y - 0.5), (columns - 0.5, y - 0.5)] for y in range(1, rows)]
    down = [[(x - 0.5, -0.5), (x - 0.5, rows - 0.5)] for x in range(1, columns)]
    style: dict[str, Any] = {"colors": base.PALE, "linewidths": base.scale(axes), "zorder": 0}
    axes.add_collection(collections.LineCollection(across + down, **style))


def _draw_pieces(
    axes: mpl_axes.Axes,
    scene: Any,
    name: str,
    kind: Mapping[str, Any],
    moment: base.Interpolation,
    marked: np.ndarray | None,
) -> None:
    """The pieces of a kind; those that go in this step fade, in a ring that grows."""
    there = scene[f"{name}_there"]
    place = _apart(_place(scene[name], moment), there[moment.after]) + np.asarray(kind["offset"])
    shown = np.flatnonzero(there[moment.before])
    if moment.share == 1.0:
        shown = np.flatnonzero(there[moment.after] | there[moment.before])
    going = ~there[moment.after]
    cell = base.points_per_unit(axes)
    for piece in shown:
        colour = kind["colours"][piece % len(kind["colours"])]
        strength = 0.25 + 0.75 * (1 - moment.share) if going[piece] else 1.0
        where, size = place[piece][::-1], kind["size"] * cell
        paint = [colors.to_rgba(colour, strength)]
        style: dict[str, Any] = {"edgecolors": "white", "zorder": 3}
        base.marks(axes, where, size, paint, kind["shape"], line=1.0, **style)
        if going[piece] or (marked is not None and marked[piece]):
            wide = size * (1.2 + (0.6 * moment.share if going[piece] else 0.0))
            style = {"edgecolors": base.INK, "zorder": 4}
            base.marks(axes, where, wide, "none", line=1.6, **style)
        if kind["numbered"]:
            points = float(np.clip(0.42 * cell * kind["size"], 5, 14))
            words: dict[str, Any] = {"color": "white", "fontweight": "bold", "fontsize": points}
            base.label(axes, where, str(piece), alpha=strength, zorder=5, **words)


def _place(cells: np.ndarray, moment: base.Interpolation) -> np.ndarray:
    """Between two cells; who leaves the board on one side for the other is there at once."""
    jumps = np.abs(cells[moment.after] - cells[moment.before]).max(axis=1, keepdims=True) > 1
    return np.where(jumps, cells[moment.after], moment.mix(cells))


def _apart(place: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Pieces in one place side by side."""
    near = (np.abs(place[:, None] - place).max(axis=-1) < 0.2) & there & there[:, None]
    rank = np.tril(near, -1).sum(axis=1) - (np.maximum(near.sum(axis=1), 1) - 1) / 2
    return place + 0.36 * rank[:, None] * np.array([0.0, 1.0])
