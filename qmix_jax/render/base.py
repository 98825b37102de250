"""What is drawn, and what draws: episodes on the host, painters, and their colours."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import patches
from matplotlib import text as mpl_text

from qmix_jax.envs import base as envs
from qmix_jax.types import EnvSpec

INK, GREY, PALE, PAPER = "#222222", "#8a8a8a", "#dcdcd8", "#f6f5f1"
YELLOW = "#f0e442"
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c510a", "#5e4fa2",
)  # fmt: skip
"""Told apart by colour-blind people too: Okabe and Ito's, then two more."""

FRAME = 4.8
"""Width of an animation's frame in inches."""


class Episode(NamedTuple):
    """One whole episode of L steps, in NumPy arrays.

    Attributes:
      spec: of its environment.
      states: tree [L+1, ...], env states; None where nobody asks for them.
      scene: arrays by name [L+1, ...], what `Scene.arrays` returned; None without a scene.
      actions: i32[L, N] or f32[L, N, D].
      rewards: f32[L], the team's, or where agents compete the mean over those that are scored.
      ending: `won`, `lost`, `time limit` or `finished`.
      metrics: the environment's, of this episode.
    """

    spec: EnvSpec
    states: Any
    scene: Any
    actions: np.ndarray
    rewards: np.ndarray
    ending: str
    metrics: dict[str, float]


class Painter(NamedTuple):
    """How to draw one episode.

    Attributes:
      draw: `(axes, time)`: the moment after `time` env steps, which may lie between two, on empty
        axes.
      aspect: height of the picture over its width.
      frames_per_step: of an animation.
      steps_per_second: of an animation.
      columns: of a contact sheet.
    """

    draw: Callable[[mpl_axes.Axes, float], None]
    aspect: float = 1.0
    frames_per_step: int = 1
    steps_per_second: float = 4.0
    columns: int = 4


class Interpolation(NamedTuple):
    """A moment between two env steps: `before` and `after` are their indices, `share` in (0, 1] of
    the way has passed (at the very start both are 0).
    """

    before: int
    after: int
    share: float

    def mix(self, values: np.ndarray) -> np.ndarray:
        """Values [L+1, ...] at this moment, linearly between the two steps."""
        return values[self.before] * (1 - self.share) + values[self.after] * self.share


def between(time: float) -> Interpolation:
    """The steps around a moment."""
    after = math.ceil(time)
    return Interpolation(max(after - 1, 0), after, 1.0 - (after - time))


def length(episode: Episode) -> int:
    """L."""
    return len(episode.rewards)


def returned(episode: Episode, step: int) -> float:
    """The sum of the first `step` rewards."""
    return float(episode.rewards[:step].sum())


def shot(episode: Episode, step: int) -> envs.Frame:
    """What `Presentation.draw` and `describe` are given."""
    states = episode.states
    return envs.Frame(
        state=jax.tree.map(lambda x: x[step], states),
        previous_state=jax.tree.map(lambda x: x[step - 1], states) if step else None,
        actions=episode.actions[step - 1] if step else None,
        step=step,
        reward=float(episode.rewards[step - 1]) if step else 0.0,
        episode_return=returned(episode, step),
        names=episode.spec.agent_names,
    )


def window(
    axes: mpl_axes.Axes, low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray
) -> None:
    """Shows the rectangle from `low` to `high`, to scale, on paper."""
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal", adjustable="box")
    corner, size = (low[0], low[1]), (high[0] - low[0], high[1] - low[1])
    style: dict[str, Any] = {"facecolor": PAPER, "edgecolor": PALE, "lw": 0.8, "zorder": -10}
    style["clip_on"] = False  # half of the edge is outside
    axes.add_patch(patches.Rectangle(corner, *size, **style))


def marks(
    axes: mpl_axes.Axes,
    places: np.ndarray,
    size: float,
    colours: Any,
    shape: str = "o",
    line: float = 0.0,
    **style: Any,
) -> None:
    """Markers of one shape; sizes are points on an animation's frame.

    Args:
      places: f[K, 2].
      size: of a marker.
      colours: one for all or one each; "none" for hollow ones.
      shape: Matplotlib's name of it.
      line: width of strokes and edges.
    """
    x, y = np.reshape(places, (-1, 2)).T
    size, line = size * scale(axes), line * scale(axes)
    axes.scatter(x, y, s=size**2, c=colours, marker=shape, linewidths=line, **style)


def label(
    axes: mpl_axes.Axes, place: Sequence[float] | np.ndarray, text: str, **style: Any
) -> mpl_text.Text:
    """Text with its middle at a place; `fontsize` is that on an animation's frame."""
    style = {"ha": "center", "va": "center", "fontsize": 9, "color": INK, **style}
    style["fontsize"] *= scale(axes)
    return axes.text(float(place[0]), float(place[1]), text, **style)


def scale(axes: mpl_axes.Axes) -> float:
    """Width of the axes over that of an animation's frame: what is measured in points shrinks with
    the panels of a contact sheet.
    """
    figure: Any = axes.figure
    return axes.get_position().width * figure.get_size_inches()[0] / FRAME


def points_per_unit(axes: mpl_axes.Axes) -> float:
    """Size of a unit of data in points on an animation's frame, so that text can be as large as
    what it names.
    """
    low, high = axes.get_xlim()
    return FRAME * 72 / abs(high - low)
