"""Grid worlds: pieces on a board.

Arrays of the scene, for each kind of piece: `<kind>` i32[K, 2], rows and columns, and
`<kind>_there` bool[K]. Facts: `rows`, `columns`; `kinds`, from each kind's name to a mapping with
`shape` (a Matplotlib marker), `colours` (one for all or one each), `size` (a share of a cell),
`numbered` and `offset` from the centre of a cell (rows, columns); `actors`, the kind that acts; and
`marked_action`: pieces whose last action it was get a ring (None: no piece).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import collections, colors

from qmix_jax.render import base

_FRAMES_PER_STEP = 2


def make(episode: base.Episode, facts: Mapping[str, Any]) -> base.Painter:
    """Makes the painter of an episode."""
    rows, columns = facts["rows"], facts["columns"]
    horizontal = [[(-0.5, y - 0.5), (columns - 0.5, y - 0.5)] for y in range(1, rows)]
    vertical = [[(x - 0.5, -0.5), (x - 0.5, rows - 0.5)] for x in range(1, columns)]

    def draw(axes: mpl_axes.Axes, time: float) -> None:
        moment = base.interpolation(time)
        base.set_view(axes, (-0.5, rows - 0.5), (columns - 0.5, -0.5))
        style: dict[str, Any] = {"colors": base.PALE, "linewidths": base.scale(axes), "zorder": 0}
        axes.add_collection(collections.LineCollection(horizontal + vertical, **style))
        for name, kind in facts["kinds"].items():
            marked = None
            if name == facts["actors"] and moment.after > 0:
                marked = episode.actions[moment.after - 1] == facts["marked_action"]
            _draw_pieces(axes, episode.scene, name, kind, moment, marked)

    return base.Painter(draw, rows / columns, _FRAMES_PER_STEP, 4.0)


def _draw_pieces(
    axes: mpl_axes.Axes,
    scene: Any,
    name: str,
    kind: Mapping[str, Any],
    moment: base.Interpolation,
    marked: np.ndarray | None,
) -> None:
    """Draws the pieces of a kind; those that disappear in this step fade, in a growing ring."""
    there = scene[f"{name}_there"]
    positions = _spread(_move(scene[name], moment), there[moment.after]) + np.asarray(
        kind["offset"]
    )
    visible = there[moment.before]
    if moment.share == 1.0:
        visible = visible | there[moment.after]
    leaving = ~there[moment.after]
    cell = base.points_per_unit(axes)
    for piece in np.flatnonzero(visible):
        colour = kind["colours"][piece % len(kind["colours"])]
        alpha = 0.25 + 0.75 * (1 - moment.share) if leaving[piece] else 1.0
        position, size = positions[piece][::-1], kind["size"] * cell
        style: dict[str, Any] = {"line": 1.0, "edgecolors": "white", "zorder": 3}
        fill = [colors.to_rgba(colour, alpha)]
        base.draw_markers(axes, position, size, fill, kind["shape"], **style)
        if leaving[piece] or (marked is not None and marked[piece]):
            ring = size * (1.2 + (0.6 * moment.share if leaving[piece] else 0.0))
            style = {"line": 1.6, "edgecolors": base.INK, "zorder": 4}
            base.draw_markers(axes, position, ring, "none", **style)
        if kind["numbered"]:
            style = {"fontsize": float(np.clip(0.42 * cell * kind["size"], 5, 14)), "zorder": 5}
            style |= {"color": "white", "fontweight": "bold", "alpha": alpha}
            base.draw_text(axes, position, str(piece), **style)


def _move(cells: np.ndarray, moment: base.Interpolation) -> np.ndarray:
    """Returns positions; a piece that crosses the edge of the board jumps to the other side."""
    jumps = np.abs(cells[moment.after] - cells[moment.before]).max(axis=1, keepdims=True) > 1
    return np.where(jumps, cells[moment.after], moment.mix(cells))


def _spread(positions: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Places pieces of the same cell side by side."""
    near = (np.abs(positions[:, None] - positions).max(axis=-1) < 0.2) & there & there[:, None]
    rank = np.tril(near, -1).sum(axis=1) - (np.maximum(near.sum(axis=1), 1) - 1) / 2
    return positions + 0.36 * rank[:, None] * np.array([0.0, 1.0])
