"""Learnt joint tables as heat maps, with the payoff and its exact projections."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import colors as mpl_colors
from matplotlib import figure as mpl_figure
from matplotlib import patches

from qmix_jax.envs import base
from qmix_jax.lab import measure

_COLUMNS = 6
_PANEL = 1.7
"""Size of a panel, in inches."""
_COLOURS = mpl_colors.LinearSegmentedColormap.from_list(
    "low_high", ["#d98b4f", "#ffffff", "#3f8fc4"]
)


def tables(results: Sequence[measure.GameResult], points: Sequence[base.DecisionPoint]) -> bytes:
    """Draws a PNG with a block of panels per decision point: the exact tables, then those learnt by
    each algorithm (mean over seeds). The best joint action is framed; `free` marks a joint value
    that is not restricted by the agents' utilities.
    """
    blocks = [_block(i, point, results) for i, point in enumerate(points)]
    heights = [-(-len(block) // _COLUMNS) for block in blocks]
    figure = mpl_figure.Figure(
        figsize=(_COLUMNS * _PANEL, (sum(heights) + 0.35 * len(blocks)) * _PANEL),
        layout="constrained",
    )
    parts = figure.subfigures(len(blocks), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, point, block, rows in zip(parts, points, blocks, heights, strict=True):
        part.suptitle(f"{results[0].game}: {point.name}", fontsize=9, x=0.01, ha="left")
        panels = np.ravel(part.subplots(rows, _COLUMNS))
        scale = mpl_colors.CenteredNorm(0.0, float(np.abs(point.optimal).max()) or 1.0)
        for panel in panels[len(block) :]:
            panel.set_axis_off()
        for panel, (title, table) in zip(panels, block.items(), strict=False):
            _draw(panel, title, table, scale)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _block(
    number: int, point: base.DecisionPoint, results: Sequence[measure.GameResult]
) -> dict[str, np.ndarray]:
    """Returns title -> table of one decision point."""
    block = {f"exact: {name}": table for name, table in measure.exact_tables(point).items()}
    for result in results:
        learnt = result.points[number]
        block |= {result.algo: learnt.table, f"{result.algo}: free": learnt.unrestricted}
    return {title: table for title, table in block.items() if table is not None}


def _draw(panel: mpl_axes.Axes, title: str, table: np.ndarray, scale: mpl_colors.Normalize) -> None:
    panel.imshow(table, cmap=_COLOURS, norm=scale)
    panel.set_title(title, fontsize=8, pad=3)
    panel.set_xticks([])
    panel.set_yticks([])
    for (row, column), value in np.ndenumerate(table):
        panel.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=7)
    row, column = np.unravel_index(np.argmax(table), table.shape)
    corner = (float(column) - 0.5, float(row) - 0.5)
    panel.add_patch(patches.Rectangle(corner, 1, 1, fill=False, edgecolor="#222222", lw=1.6))
    panel.spines[:].set_color("#aaaaaa")
