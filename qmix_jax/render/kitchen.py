"""Overcooked, both versions: a kitchen from above, pots with contents, cooks with their items.

Arrays of the scene: `lying` and `timer` i32[rows, columns], `x`, `y`, `facing` (0 up, 1 down,
2 right, 3 left) and `held` i32[N], `recipe` i32[]. An object is bits: 1 a plate, 2 cooked, then two
bits per ingredient that count it. Facts: `tiles` i32[rows, columns] as in JaxMARL's Overcooked v2
(0 floor, 1 counter, 4 hatch, 5 pot, 6 and 7 recipe, 9 plates, from 10 on ingredients), `cooking`,
the steps that a soup takes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import patches

from qmix_jax.render import base

FLOOR, COUNTER, HATCH, POT, RECIPE, BUTTON, PLATES, INGREDIENTS = 0, 1, 4, 5, 6, 7, 9, 10
_TILE = {FLOOR: "#f3efe6", HATCH: "#cfe6d8", POT: "#b9a487", RECIPE: "#e6dcef", BUTTON: "#e6dcef"}
_COUNTER, _EDGE = "#c9b79c", "#a8957a"
_FOOD = ("#e6b422", "#c8372d", "#3f8f4f", "#7b5aa6")
"""By ingredient, onions first."""
_COOKS = base.COLOURS[:4]
_DIRECTIONS = ((0.0, -1.0), (0.0, 1.0), (1.0, 0.0), (-1.0, 0.0))
"""By `facing`."""
_POT = "#3c3c40"

Position = tuple[float, float]


def make(episode: base.Episode, facts: Mapping[str, Any]) -> base.Painter:
    """Makes the painter of an episode."""
    scene, tiles = episode.scene, facts["tiles"]
    rows, columns = tiles.shape

    def draw(axes: mpl_axes.Axes, time: float) -> None:
        now = base.interpolation(time).after
        base.set_view(axes, (-0.5, rows - 0.5), (columns - 0.5, -0.5))
        for (y, x), tile in np.ndenumerate(tiles):
            _draw_tile(axes, (x, y), int(tile))
            if tile == POT:
                remaining = float(scene["timer"][now][y, x] / facts["cooking"])
                _draw_pot(axes, (x, y), int(scene["lying"][now][y, x]), remaining)
            else:
                is_recipe = tile in (RECIPE, BUTTON)
                item = scene["recipe"][now] | 1 if is_recipe else scene["lying"][now][y, x]
                _draw_item(axes, (x, y), int(item), 1.0)
        for cook in range(scene["x"].shape[1]):
            _draw_cook(axes, scene, now, cook)

    return base.Painter(draw, rows / columns, 1, 6.0)


def _draw_tile(axes: mpl_axes.Axes, position: Position, tile: int) -> None:
    x, y = position
    style: dict[str, Any] = {"facecolor": _TILE.get(tile, _COUNTER), "lw": base.scale(axes)}
    style["edgecolor"] = "#e4dfd3" if tile == FLOOR else _EDGE
    axes.add_patch(patches.Rectangle((x - 0.5, y - 0.5), 1, 1, zorder=0, **style))
    if tile == HATCH:
        style = {"fontsize": _points(axes, 0.24), "color": "#2e6b4a"}
        base.draw_text(axes, position, "serve", zorder=1, **style)
    if tile == PLATES:
        for lift in (0.12, 0.0, -0.12):
            _draw_plate(axes, (x, y + lift), 0.24)
    if tile >= INGREDIENTS:
        for dx, dy in ((-0.17, 0.12), (0.17, 0.12), (0.0, -0.14)):
            _draw_food(axes, (x + dx, y + dy), tile - INGREDIENTS, 0.17)


def _draw_pot(axes: mpl_axes.Axes, position: Position, content: int, remaining: float) -> None:
    """Draws a pot with its content, a ring that fills while it cooks, and a check mark when it is
    ready; `remaining` is a share of the cooking time.
    """
    base.draw_disc(axes, position, 0.36, _POT, line=1.5, edgecolor="#1d1d20", zorder=2)
    cooked = bool(content & 2)
    if cooked:
        base.draw_disc(axes, position, 0.29, _soup(content), zorder=3)
    _draw_amounts(axes, position, content, 0.15, 0.095)
    ring: dict[str, Any] = {"width": 0.08, "fc": base.COLOURS[2], "zorder": 4}
    if remaining > 0:
        start = 90 - 360 * (1 - remaining)
        axes.add_patch(patches.Wedge(position, 0.45, start, 90, **ring))
    if cooked:
        axes.add_patch(patches.Wedge(position, 0.45, 0, 360, lw=0, **ring))
        style: dict[str, Any] = {"fontsize": _points(axes, 0.22), "fontweight": "bold"}
        style["bbox"] = {"boxstyle": "round,pad=0.12", "fc": base.COLOURS[2], "ec": "none"}
        corner = (position[0] + 0.3, position[1] - 0.32)
        base.draw_text(axes, corner, "✓", color="white", zorder=6, **style)


def _draw_cook(axes: mpl_axes.Axes, scene: Any, now: int, cook: int) -> None:
    """Draws a disc with a cap that points ahead, and in front of it the cook's item."""
    colour = _COOKS[cook % len(_COOKS)]
    x, y = (float(scene[axis][now][cook]) for axis in "xy")
    dx, dy = _DIRECTIONS[int(scene["facing"][now][cook])]
    tip = (x + 0.47 * dx, y + 0.47 * dy)
    left, right = ((x - s * dy, y + s * dx) for s in (0.26, -0.26))
    axes.add_patch(patches.Polygon((tip, left, right), facecolor=colour, zorder=5, lw=0))
    base.draw_disc(axes, (x, y), 0.31, colour, line=1.5, edgecolor="white", zorder=6)
    style = {"color": "white", "fontweight": "bold", "fontsize": _points(axes, 0.3), "zorder": 7}
    base.draw_text(axes, (x - 0.1 * dx, y - 0.1 * dy), str(cook), **style)
    _draw_item(axes, (x + 0.3 * dx, y + 0.3 * dy), int(scene["held"][now][cook]), 0.75, 8)


def _draw_item(
    axes: mpl_axes.Axes, position: Position, item: int, size: float, order: int = 3
) -> None:
    """Draws a plate, a soup, an ingredient, or nothing."""
    if item & 1:
        _draw_plate(axes, position, 0.3 * size, order)
        if item >> 2:
            base.draw_disc(axes, position, 0.21 * size, _soup(item), zorder=order + 0.1)
            _draw_amounts(axes, position, item, 0.1 * size, 0.07 * size, order + 0.2)
    elif item >> 2:
        _draw_food(axes, position, _ingredients(item)[0], 0.22 * size, order)


def _draw_plate(axes: mpl_axes.Axes, position: Position, radius: float, order: int = 2) -> None:
    base.draw_disc(axes, position, radius, "white", 1.2, edgecolor="#8d8d8d", zorder=order)


def _draw_food(
    axes: mpl_axes.Axes, position: Position, kind: int, radius: float, order: float = 2
) -> None:
    colour = _FOOD[kind % len(_FOOD)]
    base.draw_disc(axes, position, radius, colour, 0.9, edgecolor="#6d5410", zorder=order)


def _draw_amounts(
    axes: mpl_axes.Axes,
    position: Position,
    item: int,
    spread: float,
    radius: float,
    order: float = 3.5,
) -> None:
    """Draws a dot per ingredient, around the centre."""
    x, y = position
    for number, kind in enumerate(_ingredients(item)):
        angle = np.pi * (2 / 3 * number - 0.5)
        dot = (x + spread * np.cos(angle), y + spread * np.sin(angle))
        _draw_food(axes, dot, kind, radius, order)


def _ingredients(item: int) -> list[int]:
    """Returns the indices of an item's ingredients, with repetitions."""
    counts = [(item >> 2 * (kind + 1)) & 3 for kind in range(8)]
    return [kind for kind, count in enumerate(counts) for _ in range(count)]


def _soup(item: int) -> str:
    """Returns the colour of a soup, that of its first ingredient."""
    ingredients = _ingredients(item)
    return _FOOD[ingredients[0] % len(_FOOD)] if ingredients else _POT


def _points(axes: mpl_axes.Axes, share: float) -> float:
    """Returns the font size that is a share of a tile, on an animation's frame."""
    return float(np.clip(share * base.points_per_unit(axes), 4, 16))
