"""SMAX: two teams, unit types as letters, health as rings, shots as lines.

Arrays of the scene, U units, allies first: `place` f32[U, 2], `health` f32[U] as a share, `alive`
bool[U], `kind` i32[U], `cooldown` f32[U] in seconds until the weapon is ready, `target` i32[U], the
unit to shoot at (-1: none). Facts: `allies`, their number, `letters`, `kinds`, `radii`, `cooldowns`
by type, `seconds` per env step.
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
_MARGIN, _MIN_WIDTH, _LATTICE = 1.7, 12.0, 4.0
"""Map units: around the units, of the narrowest view, and between marks on the floor."""
_LOOKAHEAD = 4
"""Env steps, past and future, that the view averages over."""
_RING = 0.24
"""Width of the ring of health, in map units."""
_FLASH = 0.5
"""Env steps for which a shot is visible."""
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def make(episode: base.Episode, facts: Mapping[str, Any]) -> base.Painter:
    """Makes the painter of a battle; the view follows the units."""
    scene = episode.scene
    fired, camera = _fired(scene, facts), _camera(scene)

    def draw(axes: mpl_axes.Axes, time: float) -> None:
        moment = base.interpolation(time)
        centre, width = moment.mix(camera[:, :2]), float(moment.mix(camera[:, 2]))
        half = np.array([width, width * _ASPECT]) / 2
        base.set_view(axes, centre - half, centre + half)
        _draw_floor(axes, centre, width)
        _draw_dead(axes, scene, moment)
        _draw_shots(axes, scene, fired, moment, facts)
        _draw_units(axes, scene, moment, facts)
        _draw_teams(axes, scene, moment, facts)

    return base.Painter(draw, _ASPECT, _FRAMES_PER_STEP, 5.0)


def _camera(scene: Any) -> np.ndarray:
    """Returns f32[L+1, 3]: centre and width of a view that follows living units smoothly."""
    place, alive = scene["place"], scene["alive"][..., None]
    low = np.where(alive, place, np.inf).min(axis=1)
    high = np.where(alive, place, -np.inf).max(axis=1)
    all_dead = ~np.isfinite(low[:, 0])
    low[all_dead], high[all_dead] = low[~all_dead][-1], high[~all_dead][-1]
    nearby = [slice(max(t - _LOOKAHEAD, 0), t + _LOOKAHEAD + 1) for t in range(len(place))]
    low = np.stack([low[steps].min(axis=0) for steps in nearby]) - _MARGIN
    high = np.stack([high[steps].max(axis=0) for steps in nearby]) + _MARGIN
    size = high - low
    width = np.maximum(np.maximum(size[:, 0], size[:, 1] / _ASPECT), _MIN_WIDTH)
    view = np.concatenate([(low + high) / 2, width[:, None]], axis=1)
    return np.stack([view[steps].mean(axis=0) for steps in nearby])


def _draw_floor(axes: mpl_axes.Axes, centre: np.ndarray, width: float) -> None:
    """Draws a lattice fixed to the map, which shows how the view moves."""
    reach = int(width / _LATTICE) + 1
    nearest = np.round(centre / _LATTICE)
    steps = np.arange(-reach, reach + 1)
    x, y = np.meshgrid((nearest[0] + steps) * _LATTICE, (nearest[1] + steps) * _LATTICE)
    lattice = np.stack([x.ravel(), y.ravel()], axis=1)
    base.draw_markers(axes, lattice, 3.5, "#cfcec7", "+", line=0.8, zorder=0)


def _fired(scene: Any, facts: Mapping[str, Any]) -> np.ndarray:
    """Returns f32[L, U]: the share of the step after which each unit last shot; NaN if it did not.

    A cooldown falls by the length of the step unless the weapon was fired, which resets it to that
    of the unit's type (to within a fraction of a second).
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
    """Draws a line from each shooter to its target: bright when the weapon fires, then fading."""
    place, radii = moment.mix(scene["place"]), _radii(scene, moment, facts)
    lines, colours, hits = [], [], []
    for step in range(max(moment.after - 2, 0), moment.after):
        targets = scene["target"][step + 1]
        age = moment.before + moment.share - (step + fired[step])
        for unit in np.flatnonzero((age >= 0) & (age < _FLASH)):
            start, end, radius = place[unit], place[targets[unit]], radii[targets[unit]]
            team = _TEAMS[int(unit >= facts["allies"])]
            colours.append(colors.to_rgba(team, 1.0 - 0.7 * age[unit] / _FLASH))
            lines.append([start, end])
            away = start - end
            hits.append(end + away * (radius + _RING) / max(float(np.hypot(*away)), 1e-6))
    width = 3 * base.scale(axes)
    shots = collections.LineCollection(lines, colors=colours, linewidths=width, zorder=2)
    axes.add_collection(shots)
    if hits:
        style: dict[str, Any] = {"line": 0.6, "edgecolors": base.INK, "zorder": 8}
        base.draw_markers(axes, np.array(hits), 14, base.YELLOW, "*", **style)


def _radii(scene: Any, moment: base.Interpolation, facts: Mapping[str, Any]) -> np.ndarray:
    """Returns f32[U], slightly enlarged."""
    return np.asarray(facts["radii"])[scene["kind"][moment.after]] * 1.15


def _draw_units(
    axes: mpl_axes.Axes, scene: Any, moment: base.Interpolation, facts: Mapping[str, Any]
) -> None:
    """Draws living units, and fading ones that die in this step: a disc in a ring of health."""
    place, health = moment.mix(scene["place"]), moment.mix(scene["health"])
    alphas = np.where(scene["alive"][moment.after], 1.0, 1.0 - moment.share)
    radii, points_per_unit = _radii(scene, moment, facts), base.points_per_unit(axes)
    shapes, paint = [], []
    for unit in np.flatnonzero(scene["alive"][moment.before]):
        ally = unit < facts["allies"]
        colour, centre, radius = _TEAMS[int(not ally)], tuple(place[unit]), radii[unit]
        outer, start = radius + _RING, 90 - 360 * float(health[unit])
        parts = {
            base.PAPER: patches.Circle(centre, outer + 0.07),
            base.PALE: patches.Circle(centre, outer),
            colour: patches.Wedge(centre, outer, start, 90),
            "white": patches.Circle(centre, radius + 0.06),
        }
        shapes += [*parts.values(), patches.Circle(centre, radius)]
        paint += [colors.to_rgba(part, alphas[unit]) for part in (*parts, colour)]
        number = unit if ally else unit - facts["allies"]
        letter = facts["letters"][scene["kind"][moment.after][unit]]
        style: dict[str, Any] = {"color": "white", "fontweight": "bold", "zorder": 6}
        style["fontsize"] = float(np.clip(radius * points_per_unit, 5, 15))
        text = letter + str(number + 1).translate(_SUBSCRIPTS)
        base.draw_text(axes, centre, text, alpha=alphas[unit], **style)
    units = collections.PatchCollection(shapes, facecolors=paint, linewidths=0, zorder=5)
    axes.add_collection(units)


def _draw_dead(axes: mpl_axes.Axes, scene: Any, moment: base.Interpolation) -> None:
    """Draws a cross where each unit fell; those of this step appear gradually."""
    dead = ~scene["alive"][moment.after]
    already = ~scene["alive"][moment.before][dead]
    colours = [(0.7, 0.7, 0.68, 1.0 if before else moment.share) for before in already]
    if dead.any():
        place = scene["place"][moment.after][dead]
        base.draw_markers(axes, place, 8, colours, "x", line=2, zorder=1)


def _draw_teams(
    axes: mpl_axes.Axes, scene: Any, moment: base.Interpolation, facts: Mapping[str, Any]
) -> None:
    """Draws, at the top, each team's remaining health as a bar and its number of living units; at
    the bottom, the unit types.
    """
    health, n = moment.mix(scene["health"]), facts["allies"]
    alive = scene["alive"][moment.after]
    for name, members, colour in zip(
        ("allies", "enemies"), (slice(None, n), slice(n, None)), _TEAMS, strict=True
    ):
        left = name == "allies"
        for width, fill in ((0.45, base.PALE), (0.45 * float(health[members].mean()), colour)):
            corner = (0.49 - width if left else 0.51, 0.955)
            style: dict[str, Any] = {"facecolor": fill, "lw": 0, "transform": axes.transAxes}
            axes.add_patch(patches.Rectangle(corner, width, 0.022, zorder=7, **style))
        text = f"{name}  {int(alive[members].sum())}/{len(alive[members])}"
        style = {"ha": "left" if left else "right", "va": "top", "color": colour}
        style |= {"fontsize": 10.5, "transform": axes.transAxes}
        base.draw_text(axes, (0.04 if left else 0.96, 0.945), text, **style)
    kinds = sorted({int(kind) for kind in scene["kind"][0]})
    legend = "   ".join(f"{facts['letters'][kind]} {facts['kinds'][kind]}" for kind in kinds)
    style = {"ha": "left", "va": "bottom", "fontsize": 9, "color": base.GREY}
    base.draw_text(axes, (0.015, 0.012), legend, transform=axes.transAxes, zorder=7, **style)
