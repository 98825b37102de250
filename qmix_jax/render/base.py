"""Episodes to render, painters that draw them, and shared drawing functions."""

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
"""Okabe and Ito's, which colour-blind viewers can tell apart, and two more."""

FRAME_WIDTH = 4.8
"""Width of an animation, in inches."""


class Episode(NamedTuple):
    """One episode of L steps, in NumPy arrays.

    Attributes:
      spec: the environment's.
      states: tree [L+1, ...], env states; None if nothing draws or describes them.
      scene: name -> array [L+1, ...], from `Scene.arrays`; None without a scene.
      actions: i32[L, N] or f32[L, N, D].
      rewards: f32[L], the team's, or, if agents compete, the mean over those that are scored.
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

    @property
    def length(self) -> int:
        """L."""
        return len(self.rewards)

    def return_after(self, step: int) -> float:
        """Returns the sum of the first `step` rewards."""
        return float(self.rewards[:step].sum())

    def frame(self, step: int) -> envs.Frame:
        """Returns the argument of `Presentation.draw` and `describe`."""
        return envs.Frame(
            state=jax.tree.map(lambda x: x[step], self.states),
            previous_state=jax.tree.map(lambda x: x[step - 1], self.states) if step else None,
            actions=self.actions[step - 1] if step else None,
            step=step,
            reward=float(self.rewards[step - 1]) if step else 0.0,
            episode_return=self.return_after(step),
            names=self.spec.agent_names,
        )


class Painter(NamedTuple):
    """Draws one episode.

    Attributes:
      draw: `(axes, time)`: draws the moment after `time` env steps, which may be fractional, on
        empty axes.
      aspect: height of the picture over its width.
      frames_per_step, steps_per_second: speed of an animation.
      columns: number of columns of a contact sheet.
    """

    draw: Callable[[mpl_axes.Axes, float], None]
    aspect: float = 1.0
    frames_per_step: int = 1
    steps_per_second: float = 4.0
    columns: int = 4


class Interpolation(NamedTuple):
    """A moment between the env steps `before` and `after`; `share`, in (0, 1], is the elapsed part
    of the step. At the start of the episode both steps are 0.
    """

    before: int
    after: int
    share: float

    def mix(self, values: np.ndarray) -> np.ndarray:
        """Interpolates values [L+1, ...] linearly."""
        return values[self.before] * (1 - self.share) + values[self.after] * self.share


def interpolation(time: float) -> Interpolation:
    """Returns the moment after `time` env steps."""
    after = math.ceil(time)
    return Interpolation(max(after - 1, 0), after, 1.0 - (after - time))


def set_view(
    axes: mpl_axes.Axes, low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray
) -> None:
    """Shows the rectangle from corner `low` to corner `high`, to scale, with a background."""
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_aspect("equal", adjustable="box")
    style: dict[str, Any] = {"facecolor": PAPER, "edgecolor": PALE, "lw": 0.8, "zorder": -10}
    style["clip_on"] = False  # half of the edge is outside
    size = (high[0] - low[0], high[1] - low[1])
    axes.add_patch(patches.Rectangle((low[0], low[1]), *size, **style))


def draw_markers(
    axes: mpl_axes.Axes,
    positions: np.ndarray,
    size: float,
    colours: Any,
    marker: str = "o",
    line: float = 0.0,
    **style: Any,
) -> None:
    """Draws markers of one kind; sizes are in points on an animation's frame.

    Args:
      positions: f[K, 2].
      size: diameter of a marker.
      colours: one for all or one each; "none" for hollow markers.
      marker: Matplotlib's name of the shape.
      line: width of strokes and edges.
    """
    x, y = np.reshape(positions, (-1, 2)).T
    size, line = size * scale(axes), line * scale(axes)
    axes.scatter(x, y, s=size**2, c=colours, marker=marker, linewidths=line, **style)


def draw_disc(
    axes: mpl_axes.Axes,
    centre: Sequence[float] | np.ndarray,
    radius: float,
    colour: Any,
    line: float = 0.0,
    **style: Any,
) -> None:
    """Draws a disc; `line`, the width of its edge, is in points on an animation's frame."""
    style = {"facecolor": colour, "lw": line * scale(axes), **style}
    axes.add_patch(patches.Circle((float(centre[0]), float(centre[1])), radius, **style))


def draw_text(
    axes: mpl_axes.Axes, position: Sequence[float] | np.ndarray, text: str, **style: Any
) -> mpl_text.Text:
    """Draws text centred at a position; `fontsize` is in points on an animation's frame."""
    style = {"ha": "center", "va": "center", "fontsize": 9, "color": INK, **style}
    style["fontsize"] *= scale(axes)
    return axes.text(float(position[0]), float(position[1]), text, **style)


def scale(axes: mpl_axes.Axes) -> float:
    """Returns the width of the axes over that of an animation's frame: the factor by which sizes in
    points shrink with the panels of a contact sheet.
    """
    figure: Any = axes.figure
    return axes.get_position().width * figure.get_size_inches()[0] / FRAME_WIDTH


def points_per_unit(axes: mpl_axes.Axes) -> float:
    """Returns points per unit of data on an animation's frame, to size text like its object."""
    low, high = axes.get_xlim()
    return FRAME_WIDTH * 72 / abs(high - low)
