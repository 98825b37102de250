"""MPE: agents as discs with the way they came, landmarks, and what is said.

Arrays of the scene, N agents and M landmarks: `place` f32[N+M, 2], `message` i32[N] (-1: nothing
said), `goal` i32[N], the landmark that an agent is to reach (-1: any). Facts: `agents`, `radii`,
`talk` bool[N], may the agent speak?
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import collections, colors, patches

from qmix_jax.render import base

_LANDMARKS = ("#8c510a", "#009e73", "#cc79a7")
_SHAPES = ("s", "^", "D")
"""Of landmarks that can be goals; colours and shapes say the same."""
_AGENTS = (base.COLOURS[0], base.COLOURS[1], *base.COLOURS[7:], *base.COLOURS[3:6])
_TRAIL = 12
"""Env steps of the way that are seen."""
_FRAMES_PER_STEP = 3


def make(episode: base.Episode, facts: Mapping[str, Any]) -> base.Painter:
    """The painter of an episode; the window holds all of it."""
    scene = episode.scene
    low, high = _window(scene["place"])
    named = bool((scene["goal"] >= 0).any())

    def draw(axes: mpl_axes.Axes, time: float) -> None:
        moment = base.between(time)
        base.window(axes, low, high)
        _draw_landmarks(axes, scene["place"][moment.after], facts, named)
        _draw_trails(axes, scene["place"], moment, facts["agents"])
        _draw_agents(axes, scene, moment, facts)
        if any(facts["talk"]):
            _draw_messages(axes, scene, moment, facts)

    return base.Painter(draw, 1.0, _FRAMES_PER_STEP, 5.0)


def _window(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of a square."""
    flat = place.reshape(-1, 2)
    low, high = flat.min(axis=0) - 0.25, flat.max(axis=0) + 0.35
    middle, half = (low + high) / 2, max((high - low).max() / 2, 0.9)
    return middle - half, middle + half


def _colour(agent: int) -> str:
    return _AGENTS[agent % len(_AGENTS)]


def _draw_landmarks(
    axes: mpl_axes.Axes, place: np.ndarray, facts: Mapping[str, Any], named: bool
) -> None:
    """Goals have a colour and a shape each; others are targets that light up when an agent is on
    them.
    """
    n, scale = facts["agents"], base.scale(axes)
    for number, where in enumerate(place[n:]):
        if named:
            colour, shape = _LANDMARKS[number % 3], _SHAPES[number % 3]
            base.marks(axes, where, 18, colour, shape, zorder=2)
            continue
        reach = float(np.max(facts["radii"][:n]))
        covered = bool((np.hypot(*(place[:n] - where).T) < reach).any())
        fill = base.YELLOW if covered else "white"
        style: dict[str, Any] = {"edgecolor": base.INK, "zorder": 1, "lw": 1.4 * scale}
        axes.add_patch(patches.Circle(tuple(where), reach * 1.35, facecolor=fill, ls=":", **style))
        base.marks(axes, where, 9.5, base.INK, "+", line=1.8, zorder=6)


def _draw_trails(
    axes: mpl_axes.Axes, place: np.ndarray, moment: base.Interpolation, agents: int
) -> None:
    """Where the agents came from, fading into the past."""
    past = place[max(moment.after - _TRAIL, 0) : moment.after]
    way = np.concatenate([past, moment.mix(place)[None]])[:, :agents]
    strength = np.linspace(0.05, 0.6, len(way))[1:]
    for agent in range(agents):
        pieces = np.stack([way[:-1, agent], way[1:, agent]], axis=1)
        paint = [colors.to_rgba(_colour(agent), each) for each in strength]
        width = 2.2 * base.scale(axes)
        lines = collections.LineCollection(list(pieces), colors=paint, linewidths=width, zorder=3)
        axes.add_collection(lines)


def _draw_agents(
    axes: mpl_axes.Axes, scene: Any, moment: base.Interpolation, facts: Mapping[str, Any]
) -> None:
    """Numbered discs; one that is to reach a landmark wears its colour and is tied to it."""
    place, scale = moment.mix(scene["place"]), base.scale(axes)
    for agent in range(facts["agents"]):
        middle, radius = tuple(place[agent]), max(float(facts["radii"][agent]), 0.1)
        order = 4 + 0.1 * agent
        goal = int(scene["goal"][moment.after][agent])
        if goal >= 0:
            colour, target = _LANDMARKS[goal % 3], place[facts["agents"] + goal]
            line: dict[str, Any] = {"color": colour, "ls": (0, (2, 2)), "lw": 1.6 * scale}
            axes.plot(*np.stack([place[agent], target], axis=1), zorder=1, **line)
            axes.add_patch(patches.Circle(middle, radius * 1.3, fc=colour, lw=0, zorder=order))
        style: dict[str, Any] = {"facecolor": _colour(agent), "edgecolor": "white"}
        axes.add_patch(patches.Circle(middle, radius, lw=1.4 * scale, zorder=order, **style))
        size = float(np.clip(radius * base.points_per_unit(axes), 7, 13))
        style = {"color": "white", "fontweight": "bold", "fontsize": size}
        base.label(axes, middle, str(agent), zorder=order + 0.01, **style)


def _draw_messages(
    axes: mpl_axes.Axes, scene: Any, moment: base.Interpolation, facts: Mapping[str, Any]
) -> None:
    """A bubble over, or under, each speaker with the symbol it said last."""
    place, said = moment.mix(scene["place"]), scene["message"][moment.after]
    for agent in map(int, np.flatnonzero((said >= 0) & facts["talk"])):
        radius = max(float(facts["radii"][agent]), 0.1)
        lift = (1.3 * radius + 0.12) * (-1 if agent % 2 else 1)
        where = place[agent] + np.array([0.0, lift])
        bubble: dict[str, Any] = {"boxstyle": "round,pad=0.25", "fc": "white", "ec": _colour(agent)}
        bubble["lw"] = 1.4 * base.scale(axes)
        text = f"says {said[agent]}"
        base.label(axes, where, text, fontsize=11.5, bbox=bubble, zorder=7)
