"""JaxNav: robots with their paths, walls and goals.

Arrays of the scene, N robots: `place` f32[N, 2] in cells, `heading` f32[N] in radians, `goal`
f32[N, 2], `walls` bool[rows, columns], `arrived` and `crashed` bool[N]. Facts: `radius` of a robot
and `reach` of a goal, in cells.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import collections, patches

from qmix_jax.render import base

_WALL = "#5b6066"


def make(episode: base.Episode, facts: Mapping[str, Any]) -> base.Painter:
    """Makes the painter of an episode."""
    scene = episode.scene
    rows, columns = scene["walls"].shape[1:]

    def draw(axes: mpl_axes.Axes, time: float) -> None:
        moment = base.interpolation(time)
        base.set_view(axes, (0.0, 0.0), (columns, rows))
        walls = zip(*np.nonzero(scene["walls"][moment.after]), strict=True)
        cells = [patches.Rectangle((x, y), 1, 1) for y, x in walls]
        style: dict[str, Any] = {"facecolors": _WALL, "edgecolors": _WALL, "linewidths": 0.5}
        axes.add_collection(collections.PatchCollection(cells, zorder=1, **style))
        for robot in range(scene["place"].shape[1]):
            _draw_robot(axes, scene, moment, facts, robot)

    return base.Painter(draw, rows / columns, 1, 10.0)


def _draw_robot(
    axes: mpl_axes.Axes,
    scene: Any,
    moment: base.Interpolation,
    facts: Mapping[str, Any],
    robot: int,
) -> None:
    """Draws a disc with a nose, its path and goal in the same colour; a cross after a crash."""
    colour, scale = base.COLOURS[robot % len(base.COLOURS)], base.scale(axes)
    x, y = moment.mix(scene["place"])[robot]
    path = scene["place"][: moment.after + 1, robot]
    axes.plot(*path.T, color=colour, alpha=0.5, lw=1.8 * scale, zorder=2)
    goal = scene["goal"][moment.after][robot]
    ring = {"edgecolor": colour, "ls": "--", "zorder": 2}
    base.draw_disc(axes, goal, facts["reach"], "none", line=1.4, **ring)
    base.draw_markers(axes, goal, 10.5, colour, "*", zorder=2)
    crashed = bool(scene["crashed"][moment.after][robot])
    edge = base.INK if scene["arrived"][moment.after][robot] else "white"
    fill = base.GREY if crashed else colour
    base.draw_disc(axes, (x, y), facts["radius"], fill, line=1.6, edgecolor=edge, zorder=4)
    heading = float(scene["heading"][moment.after][robot])
    nose = (x + facts["radius"] * np.cos(heading), y + facts["radius"] * np.sin(heading))
    axes.plot((x, nose[0]), (y, nose[1]), color="white", lw=2 * scale, zorder=5)
    if crashed:
        base.draw_markers(axes, np.array([x, y]), 11.5, base.COLOURS[1], "x", line=3, zorder=6)
