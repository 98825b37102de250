"""Overcooked, both versions: a kitchen from above, pots with what is in them, cooks with what they
hold.

Arrays of the scene: `lying` and `timer` i32[rows, columns], `x`, `y`, `facing` (0 up, 1 down,
2 right, 3 left) and `held` i32[N], `recipe` i32[]. A thing is bits: 1 a plate, 2 cooked, then two
bits per ingredient that count it. Facts: `tiles` i32[rows, columns] as in JaxMARL's Overcooked v2
(0 floor, 1 counter, 4 hatch, 5 pot, 6 and 7 recipe, 9 plates, from 10 on ingredients), `cooking`,
steps that a soup takes.
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
"""Onions first."""
_COOKS = (base.COLOURS[0], base.COLOURS[1], base.COLOURS[2], base.COLOURS[3])
_AHEAD = ((0.0, -1.0), (0.0, 1.0), (1.0, 0.0), (-1.0, 0.0))
_POT = "#3c3c40"


def make(episode: base.Episode, facts: Mapping[str, Any]) -> base.Painter:
    """The painter of an episode."""
    scene, tiles = episode.scene, facts["tiles"]
    rows, columns = tiles.shape

    def draw(axes: mpl_axes.Axes, time: float) -> None:
        moment = base.between(time)
        base.window(axes, (-0.5, rows - 0.5), (columns - 0.5, -0.5))
        for (y, x), tile in np.ndenumerate(tiles):
            _draw_tile(axes, (x, y), int(tile))
            shown = tile in (RECIPE, BUTTON)
            thing = (
                scene["recipe"][moment.after] | 1 if shown else scene["lying"][moment.after][y, x]
            )
            left = scene["timer"][moment.after][y, x] / facts["cooking"]
            _draw_on_tile(axes, (x, y), int(thing), float(left) if tile == POT else None)
        for cook in range(scene["x"].shape[1]):
            _draw_cook(axes, scene, moment, cook)

    return base.Painter(draw, rows / columns, 1, 6.0)


def _draw_tile(axes: mpl_axes.Axes, place: tuple[float, float], tile: int) -> None:
    x, y = place
    fill = _TILE.get(tile, _COUNTER)
    edge = "#e4dfd3" if tile == FLOOR else _EDGE
    style: dict[str, Any] = {"facecolor": fill, "edgecolor": edge, "lw": base.scale(axes)}
    axes.add_patch(patches.Rectangle((x - 0.5, y - 0.5), 1, 1, zorder=0, **style))
    if tile == HATCH:
        base.label(axes, place, "serve", fontsize=_points(axes, 0.24), color="#2e6b4a", zorder=1)
    if tile == PLATES:
        for lift in (0.12, 0.0, -0.12):
            _draw_plate(axes, (x, y + lift), 0.24)
    if tile >= INGREDIENTS:
        for dx, dy in ((-0.17, 0.12), (0.17, 0.12), (0.0, -0.14)):
            _draw_food(axes, (x + dx, y + dy), tile - INGREDIENTS, 0.17)


def _draw_on_tile(
    axes: mpl_axes.Axes, place: tuple[float, float], thing: int, left: float | None
) -> None:
    """What lies on a tile; `left` of a pot: the share of its cooking that is left."""
    if left is None:
        _draw_thing(axes, place, thing, 1.0)
    else:
        _draw_pot(axes, place, thing, left)


def _draw_pot(axes: mpl_axes.Axes, place: tuple[float, float], inside: int, left: float) -> None:
    """A pot with what is in it, a ring that fills while it cooks, and a mark when it is done."""
    scale = base.scale(axes)
    rim: dict[str, Any] = {"facecolor": _POT, "edgecolor": "#1d1d20", "lw": 1.5 * scale}
    axes.add_patch(patches.Circle(place, 0.36, zorder=2, **rim))
    cooked = bool(inside & 2)
    if cooked:
        axes.add_patch(patches.Circle(place, 0.29, facecolor=_soup(inside), zorder=3, lw=0))
    _draw_amounts(axes, place, inside, 0.15, 0.095)
    if left > 0:
        swept = 360 * (1 - left)
        ring = patches.Wedge(place, 0.45, 90 - swept, 90, width=0.08, fc=base.COLOURS[2], zorder=4)
        axes.add_patch(ring)
    if cooked:
        ring = patches.Wedge(place, 0.45, 0, 360, width=0.08, fc=base.COLOURS[2], zorder=4, lw=0)
        axes.add_patch(ring)
        style: dict[str, Any] = {"fontsize": _points(axes, 0.22), "fontweight": "bold"}
        corner = (place[0] + 0.3, place[1] - 0.32)
        badge = {"boxstyle": "round,pad=0.12", "fc": base.COLOURS[2], "ec": "none"}
        base.label(axes, corner, "✓", color="white", bbox=badge, zorder=6, **style)


def _draw_cook(axes: mpl_axes.Axes, scene: Any, moment: base.Interpolation, cook: int) -> None:
    """A disc with a cap that points ahead, and in front of it what it holds."""
    colour, scale = _COOKS[cook % len(_COOKS)], base.scale(axes)
    x, y = (float(scene[axis][moment.after][cook]) for axis in "xy")
    ahead = _AHEAD[int(scene["facing"][moment.after][cook])]
    side = (-ahead[1], ahead[0])
    tip, reach = (x + 0.47 * ahead[0], y + 0.47 * ahead[1]), 0.26
    left, right = ((x + s * reach * side[0], y + s * reach * side[1]) for s in (1, -1))
    axes.add_patch(patches.Polygon((tip, left, right), facecolor=colour, zorder=5, lw=0))
    disc: dict[str, Any] = {"facecolor": colour, "edgecolor": "white", "lw": 1.5 * scale}
    axes.add_patch(patches.Circle((x, y), 0.31, zorder=6, **disc))
    style: dict[str, Any] = {"color": "white", "fontweight": "bold", "zorder": 7}
    back = (x - 0.1 * ahead[0], y - 0.1 * ahead[1])
    base.label(axes, back, str(cook), fontsize=_points(axes, 0.3), **style)
    held = int(scene["held"][moment.after][cook])
    _draw_thing(axes, (x + 0.3 * ahead[0], y + 0.3 * ahead[1]), held, 0.75, 8)


def _draw_thing(
    axes: mpl_axes.Axes, place: tuple[float, float], thing: int, size: float, order: int = 3
) -> None:
    """A plate, a soup, an ingredient, or nothing."""
    if thing & 1:
        _draw_plate(axes, place, 0.3 * size, order)
        if thing >> 2:
            soup = patches.Circle(place, 0.21 * size, facecolor=_soup(thing), zorder=order + 0.1)
            axes.add_patch(soup)
            _draw_amounts(axes, place, thing, 0.1 * size, 0.07 * size, order + 0.2)
    elif thing >> 2:
        _draw_food(axes, place, _ingredients(thing)[0], 0.22 * size, order)


def _draw_plate(
    axes: mpl_axes.Axes, place: tuple[float, float], radius: float, order: int = 2
) -> None:
    style: dict[str, Any] = {"facecolor": "white", "edgecolor": "#8d8d8d"}
    lw = 1.2 * base.scale(axes)
    axes.add_patch(patches.Circle(place, radius, zorder=order, lw=lw, **style))


def _draw_food(
    axes: mpl_axes.Axes, place: tuple[float, float], kind: int, radius: float, order: float = 2
) -> None:
    style: dict[str, Any] = {"facecolor": _FOOD[kind % len(_FOOD)], "edgecolor": "#6d5410"}
    lw = 0.9 * base.scale(axes)
    axes.add_patch(patches.Circle(place, radius, zorder=order, lw=lw, **style))


def _draw_amounts(
    axes: mpl_axes.Axes,
    place: tuple[float, float],
    thing: int,
    spread: float,
    radius: float,
    order: float = 3.5,
) -> None:
    """A dot per ingredient, around the middle."""
    for number, kind in enumerate(_ingredients(thing)):
        angle = np.pi * (2 / 3 * number - 0.5)
        where = (place[0] + spread * np.cos(angle), place[1] + spread * np.sin(angle))
        _draw_food(axes, where, kind, radius, order)


def _ingredients(thing: int) -> list[int]:
    """Ingredient indices, each as often as it is there."""
    counts = [(thing >> 2 * (kind + 1)) & 3 for kind in range(8)]
    return [kind for kind, count in enumerate(counts) for _ in range(count)]


def _soup(thing: int) -> str:
    """A soup has the colour of its first ingredient."""
    inside = _ingredients(thing)
    return _FOOD[inside[0] % len(_FOOD)] if inside else _POT


def _points(axes: mpl_axes.Axes, share: float) -> float:
    """Font size that is a share of a tile, on an animation's frame."""
    return float(np.clip(share * base.points_per_unit(axes), 4, 16))
