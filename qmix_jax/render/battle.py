"""SMAX: two teams, unit types as letters, health as rings, shots as lines.

Arrays of the scene, U units, allies first: `place` f32[U, 2], `health` f32[U] as a share, `alive`
bool[U], `kind` i32[U], `cooldown` f32[U] in seconds until the weapon is ready, `target` i32[U], the
unit to shoot at (-1: none). Facts: `allies` how many, `letters`, `kinds`, `radii`, `cooldowns` by
type, `seconds` per env step.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import collections, colors, patches

from qmix_jax.render import base

_TEAMS = (base.COLOURS[0], base.COLOURS[1])
_FRAMES_PER_STEP = 4
_ASPECT = 0.7
_MARGIN, _NARROWEST, _LATTICE = 1.7, 12.0, 4.0
"""Map units: around the units, of the narrowest window, and between marks on the floor."""
_AHEAD = 4
"""Env steps by which the window knows what comes."""
_RING = 0.24
"""Width of the ring of health, map units."""
_FLASH = 0.5
"""Env steps for which a shot is seen."""
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def make(episode: base.Episode, facts: Mapping[str, Any]) -> base.Painter:
    """The painter of a battle; the window follows it."""
    fired, camera = _fired(episode.scene, facts), _camera(episode.scene)

    def draw(axes: mpl_axes.Axes, time: float) -> None:
        moment = base.between(time)
        middle, width = moment.mix(camera[:, :2]), float(moment.mix(camera[:, 2]))
        half = np.array([width, width * _ASPECT]) / 2
        base.window(axes, middle - half, middle + half)
        _draw_floor(axes, middle, width)
        _draw_dead(axes, episode.scene, moment)
        _draw_shots(axes, episode.scene, fired, moment, facts)
        _draw_units(axes, episode.scene, moment, facts)
        _draw_teams(axes, episode.scene, moment, facts)

    return base.Painter(draw, _ASPECT, _FRAMES_PER_STEP, 5.0)


def _camera(scene: Any) -> np.ndarray:
    """f32[L+1, 3]: middle and width of a window that follows the living without haste."""
    place, alive = scene["place"], scene["alive"][..., None]
    low = np.where(alive, place, np.inf).min(axis=1)
    high = np.where(alive, place, -np.inf).max(axis=1)
    nobody = ~np.isfinite(low[:, 0])
    low[nobody], high[nobody] = low[~nobody][-1], high[~nobody][-1]
    steps = range(len(place))
    around = [slice(max(step - _AHEAD, 0), step + _AHEAD + 1) for step in steps]
    low = np.stack([low[near].min(axis=0) for near in around]) - _MARGIN
    high = np.stack([high[near].max(axis=0) for near in around]) + _MARGIN
    size = high - low
    width = np.maximum(np.maximum(size[:, 0], size[:, 1] / _ASPECT), _NARROWEST)
    shot = np.concatenate([(low + high) / 2, width[:, None]], axis=1)
    return np.stack([shot[near].mean(axis=0) for near in around])


def _draw_floor(axes: mpl_axes.Axes, middle: np.ndarray, width: float) -> None:
    """A lattice that stands still while the window moves."""
    reach = int(width / _LATTICE) + 1
    nearest = np.round(middle / _LATTICE)
    steps = np.arange(-reach, reach + 1)
    x, y = np.meshgrid((nearest[0] + steps) * _LATTICE, (nearest[1] + steps) * _LATTICE)
    lattice = np.stack([x.ravel(), y.ravel()], axis=1)
    base.marks(axes, lattice, 3.5, "#cfcec7", "+", line=0.8, zorder=0)


def _fired(scene: Any, facts: Mapping[str, Any]) -> np.ndarray:
    """f32[L, U]: at which share of a step each unit shot last, NaN if it did not.

    A cooldown falls by the length of the step unless the weapon was fired, which sets it to its
    type's (to within a fraction of a second).
    """
    cooldown, seconds = scene["cooldown"], facts["seconds"]
    shot = cooldown[1:] - cooldown[:-1] > -seconds * 0.999
    full = np.asarray(facts["cooldowns"])[scene["kind"][1:]]
    since = np.clip((full - cooldown[1:]) / seconds, 0.0, 1.0)
    return np.where(shot & (scene["target"][1:] >= 0), 1.0 - since, np.nan)


def _draw_shots(
    axes: mpl_axes.Axes,
    scene: Any,
    fired: np.ndarray,
    moment: base.Interpolation,
    facts: Mapping[str, Any],
) -> None:
    """A line from who shoots to who is hit: bright when the weapon fires, then fading."""
    place, scale = moment.mix(scene["place"]), base.scale(axes)
    lines, colours, hits = [], [], []
    for step in range(max(moment.after - 2, 0), moment.after):
        target = scene["target"][step + 1]
        age = moment.before + moment.share - (step + fired[step])
        for unit in np.flatnonzero((age >= 0) & (age < _FLASH)):
            team = _TEAMS[int(unit >= facts["allies"])]
            colours.append(colors.to_rgba(team, 1.0 - 0.7 * age[unit] / _FLASH))
            lines.append([place[unit], place[target[unit]]])
            away = place[unit] - place[target[unit]]
            rim = _radii(scene, moment, facts)[target[unit]] + _RING
            hits.append(place[target[unit]] + away * rim / max(float(np.hypot(*away)), 1e-6))
    shots = collections.LineCollection(lines, colors=colours, linewidths=3 * scale, zorder=2)
    axes.add_collection(shots)
    if hits:
        style: dict[str, Any] = {"edgecolors": base.INK, "zorder": 8}
        base.marks(axes, np.array(hits), 14, base.YELLOW, "*", line=0.6, **style)


def _radii(scene: Any, moment: base.Interpolation, facts: Mapping[str, Any]) -> np.ndarray:
    """f32[U]: a little larger than they are."""
    return np.asarray(facts["radii"])[scene["kind"][moment.after]] * 1.15


def _draw_units(
    axes: mpl_axes.Axes, scene: Any, moment: base.Interpolation, facts: Mapping[str, Any]
) -> None:
    """The living, and those that die in this step, fading: a disc in a ring of health."""
    place, health = moment.mix(scene["place"]), moment.mix(scene["health"])
    strength = np.where(scene["alive"][moment.after], 1.0, 1.0 - moment.share)
    radii, unit_size = _radii(scene, moment, facts), base.points_per_unit(axes)
    shapes, paint = [], []
    for unit in np.flatnonzero(scene["alive"][moment.before]):
        ally = unit < facts["allies"]
        colour, middle, radius = _TEAMS[int(not ally)], tuple(place[unit]), radii[unit]
        outer, sweep = radius + _RING, 360 * float(health[unit])
        parts = {
            base.PAPER: patches.Circle(middle, outer + 0.07),
            base.PALE: patches.Circle(middle, outer),
            colour: patches.Wedge(middle, outer, 90 - sweep, 90),
            "white": patches.Circle(middle, radius + 0.06),
        }
        shapes += [*parts.values(), patches.Circle(middle, radius)]
        paint += [colors.to_rgba(each, strength[unit]) for each in (*parts, colour)]
        number = unit if ally else unit - facts["allies"]
        kind = facts["letters"][scene["kind"][moment.after][unit]]
        style: dict[str, Any] = {"color": "white", "fontweight": "bold", "zorder": 6}
        style |= {"fontsize": float(np.clip(radius * unit_size, 5, 15)), "alpha": strength[unit]}
        base.label(axes, middle, kind + str(number + 1).translate(_SUBSCRIPTS), **style)
    units = collections.PatchCollection(shapes, facecolors=paint, linewidths=0, zorder=5)
    axes.add_collection(units)


def _draw_dead(axes: mpl_axes.Axes, scene: Any, moment: base.Interpolation) -> None:
    """A cross where each unit fell."""
    dead = ~scene["alive"][moment.after]
    long_dead = ~scene["alive"][moment.before][dead]
    colour = [(0.7, 0.7, 0.68, 1.0 if gone else moment.share) for gone in long_dead]
    if dead.any():
        base.marks(axes, scene["place"][moment.after][dead], 8, colour, "x", line=2, zorder=1)


def _draw_teams(
    axes: mpl_axes.Axes, scene: Any, moment: base.Interpolation, facts: Mapping[str, Any]
) -> None:
    """Above: the health left to each team as a bar, and how many are alive."""
    health, n = moment.mix(scene["health"]), facts["allies"]
    alive = scene["alive"][moment.after]
    for side, part in enumerate((slice(None, n), slice(n, None))):
        share, colour = float(health[part].mean()), _TEAMS[side]
        start, away = (0.49, -1) if side == 0 else (0.51, 1)
        for width, fill in ((0.45, base.PALE), (0.45 * share, colour)):
            corner = (start - width if side == 0 else start, 0.955)
            bar = patches.Rectangle(
                corner, width, 0.022, facecolor=fill, lw=0, transform=axes.transAxes, zorder=7
            )
            axes.add_patch(bar)
        name = "allies" if side == 0 else "enemies"
        text = f"{name}  {int(alive[part].sum())}/{len(alive[part])}"
        where = (start + away * 0.45, 0.945)
        style: dict[str, Any] = {"ha": "left" if side == 0 else "right", "va": "top"}
        style |= {"color": colour, "fontsize": 10.5, "transform": axes.transAxes}
        base.label(axes, where, text, **style)
    seen = sorted({int(kind) for kind in scene["kind"][0]})
    legend = "   ".join(f"{facts['letters'][kind]} {facts['kinds'][kind]}" for kind in seen)
    style = {"ha": "left", "va": "bottom", "fontsize": 9, "color": base.GREY}
    base.label(axes, (0.015, 0.012), legend, transform=axes.transAxes, zorder=7, **style)
