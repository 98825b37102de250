"""MPE: agents as discs with their paths, landmarks, and messages.

Arrays of the scene, N agents and M landmarks: `place` f32[N+M, 2], `message` i32[N] (-1: none),
`goal` i32[N], the landmark that an agent should reach (-1: any). Facts: `agents`, `radii`, `talk`
bool[N], may the agent speak?
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import collections, colors

from qmix_jax.render import base

_LANDMARKS = ("#8c510a", "#009e73", "#cc79a7")
_MARKERS = ("s", "^", "D")
"""Of landmarks that can be goals; colour and marker carry the same information."""
_AGENTS = (base.COLOURS[0], base.COLOURS[1], *base.COLOURS[7:], *base.COLOURS[3:6])
_TRAIL = 12
"""Env steps of the path that are visible."""
_FRAMES_PER_STEP = 3


def make(episode: base.Episode, facts: Mapping[str, Any]) -> base.Painter:
    """Makes the painter of an episode, in a square view of all its positions."""
    scene = episode.scene
    positions = scene["place"].reshape(-1, 2)
    low, high = positions.min(axis=0) - 0.25, positions.max(axis=0) + 0.35
    centre, half = (low + high) / 2, max((high - low).max() / 2, 0.9)
    has_goals = bool((scene["goal"] >= 0).any())

    def draw(axes: mpl_axes.Axes, time: float) -> None:
        moment = base.interpolation(time)
        base.set_view(axes, centre - half, centre + half)
        _draw_landmarks(axes, scene["place"][moment.after], facts, has_goals)
        _draw_trails(axes, scene["place"], moment, facts["agents"])
        _draw_agents(axes, scene, moment, facts)
        if any(facts["talk"]):
            _draw_messages(axes, scene, moment, facts)

    return base.Painter(draw, 1.0, _FRAMES_PER_STEP, 5.0)


def _colour(agent: int) -> str:
    return _AGENTS[agent % len(_AGENTS)]


def _draw_landmarks(
    axes: mpl_axes.Axes, place: np.ndarray, facts: Mapping[str, Any], has_goals: bool
) -> None:
    """Draws goals, each with a colour and a marker, or targets that light up under an agent."""
    n = facts["agents"]
    for number, position in enumerate(place[n:]):
        if has_goals:
            colour, marker = _LANDMARKS[number % 3], _MARKERS[number % 3]
            base.draw_markers(axes, position, 18, colour, marker, zorder=2)
            continue
        reach = float(np.max(facts["radii"][:n]))
        covered = bool((np.hypot(*(place[:n] - position).T) < reach).any())
        fill, style = base.YELLOW if covered else "white", {"edgecolor": base.INK, "ls": ":"}
        base.draw_disc(axes, position, reach * 1.35, fill, line=1.4, zorder=1, **style)
        base.draw_markers(axes, position, 9.5, base.INK, "+", line=1.8, zorder=6)


def _draw_trails(
    axes: mpl_axes.Axes, place: np.ndarray, moment: base.Interpolation, agents: int
) -> None:
    """Draws the agents' paths, fading with age."""
    past = place[max(moment.after - _TRAIL, 0) : moment.after]
    path = np.concatenate([past, moment.mix(place)[None]])[:, :agents]
    alphas = np.linspace(0.05, 0.6, len(path))[1:]
    for agent in range(agents):
        segments = np.stack([path[:-1, agent], path[1:, agent]], axis=1)
        paint = [colors.to_rgba(_colour(agent), alpha) for alpha in alphas]
        width = 2.2 * base.scale(axes)
        lines = collections.LineCollection(list(segments), colors=paint, linewidths=width, zorder=3)
        axes.add_collection(lines)


def _draw_agents(
    axes: mpl_axes.Axes, scene: Any, moment: base.Interpolation, facts: Mapping[str, Any]
) -> None:
    """Draws numbered discs; one with a goal has a rim of the goal's colour and a line to it."""
    place = moment.mix(scene["place"])
    for agent in range(facts["agents"]):
        radius, order = max(float(facts["radii"][agent]), 0.1), 4 + 0.1 * agent
        goal = int(scene["goal"][moment.after][agent])
        if goal >= 0:
            colour, target = _LANDMARKS[goal % 3], place[facts["agents"] + goal]
            line: dict[str, Any] = {"ls": (0, (2, 2)), "lw": 1.6 * base.scale(axes), "zorder": 1}
            axes.plot(*np.stack([place[agent], target], axis=1), color=colour, **line)
            base.draw_disc(axes, place[agent], radius * 1.3, colour, zorder=order)
        style = {"line": 1.4, "edgecolor": "white", "zorder": order}
        base.draw_disc(axes, place[agent], radius, _colour(agent), **style)
        size = float(np.clip(radius * base.points_per_unit(axes), 7, 13))
        style = {"color": "white", "fontweight": "bold", "fontsize": size, "zorder": order + 0.01}
        base.draw_text(axes, place[agent], str(agent), **style)


def _draw_messages(
    axes: mpl_axes.Axes, scene: Any, moment: base.Interpolation, facts: Mapping[str, Any]
) -> None:
    """Draws a bubble over, or under, each speaker with its last symbol."""
    place, messages = moment.mix(scene["place"]), scene["message"][moment.after]
    for agent in map(int, np.flatnonzero((messages >= 0) & facts["talk"])):
        radius = max(float(facts["radii"][agent]), 0.1)
        lift = (1.3 * radius + 0.12) * (-1 if agent % 2 else 1)
        position = place[agent] + np.array([0.0, lift])
        bubble: dict[str, Any] = {"boxstyle": "round,pad=0.25", "fc": "white", "ec": _colour(agent)}
        bubble["lw"] = 1.4 * base.scale(axes)
        text = f"says {messages[agent]}"
        base.draw_text(axes, position, text, fontsize=11.5, bbox=bubble, zorder=7)
