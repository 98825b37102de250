"""Painters on paper: the frames of an animation, and contact sheets."""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_agg
from PIL import Image

from qmix_jax.render import base

_HEAD, _DPI = 0.34, 100
"""Of a frame: height of the caption in inches, and dots per inch."""
_SHEET, _GAP, _SHEET_HEAD, _SHEET_DPI = 9.7, 0.06, 0.25, 150
"""Of a contact sheet: its width, a gap, height of a caption in inches; dots per inch."""
_PANELS = 12


class Animation(NamedTuple):
    """An animation: how many frames there are, and how to draw the i-th."""

    count: int
    frame: Callable[[int], Image.Image]


def film(episode: base.Episode, painter: base.Painter) -> Animation:
    """An animation of `frames_per_step` frames for each env step, after one of the start."""
    high = base.FRAME * painter.aspect + _HEAD
    figure = mpl_figure.Figure(figsize=(base.FRAME, high), dpi=_DPI)
    canvas = backend_agg.FigureCanvasAgg(figure)
    axes = figure.add_axes((0.012, 0.01, 0.976, 1 - _HEAD / high - 0.01))
    axes.set_axis_off()
    top, texts = 1 - 0.5 * _HEAD / high, []
    for x, side in ((0.014, "left"), (0.986, "right")):
        style: dict[str, Any] = {"ha": side, "va": "center", "fontsize": 10, "color": base.INK}
        texts.append(figure.text(x, top, "", **style))
    texts[0].set_text(episode.spec.name)

    def frame(number: int) -> Image.Image:
        time = number / painter.frames_per_step
        _draw(axes, painter, time)
        texts[1].set_text(caption(episode, time))
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())

    return Animation(base.length(episode) * painter.frames_per_step + 1, frame)


def caption(episode: base.Episode, time: float) -> str:
    """Step, reward so far, and at the end how it ended."""
    step = int(time + 1e-9)
    text = f"step {step}   return {base.returned(episode, step):.2f}"
    return f"{text}   {episode.ending}" if step == base.length(episode) else text


def sheet(episode: base.Episode, painter: base.Painter) -> bytes:
    """A PNG of evenly spaced moments, the first and the last among them, each with its caption."""
    steps = sheet_steps(base.length(episode))
    columns = min(painter.columns, len(steps))
    rows = -(-len(steps) // columns)
    panel = (_SHEET - _GAP) / painter.columns - _GAP
    pitch = panel * painter.aspect + _SHEET_HEAD
    width, high = columns * (panel + _GAP) + _GAP, rows * pitch + _SHEET_HEAD + _GAP
    figure = mpl_figure.Figure(figsize=(width, high), dpi=_SHEET_DPI)
    title = (
        f"{episode.spec.name}: return {base.returned(episode, len(episode.rewards)):.2f}, "
        f"{episode.ending} after {base.length(episode)} steps"
    )
    style: dict[str, Any] = {"va": "center", "color": base.INK}
    figure.text(_GAP / width, 1 - 0.5 * _SHEET_HEAD / high, title, fontsize=10, **style)
    for number, step in enumerate(steps):
        row, column = divmod(number, columns)
        left, top = _GAP + column * (panel + _GAP), _SHEET_HEAD + row * pitch
        down = top + pitch
        box = (left / width, 1 - down / high, panel / width, panel * painter.aspect / high)
        axes = figure.add_axes(box)
        axes.set_axis_off()
        _draw(axes, painter, float(step))
        middle, line = (left + 0.5 * panel) / width, 1 - (top + 0.55 * _SHEET_HEAD) / high
        figure.text(middle, line, caption(episode, step), ha="center", fontsize=8, **style)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    small = io.BytesIO()
    picture = Image.open(file).convert("RGB")
    picture.quantize(128, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def sheet_steps(length: int) -> list[int]:
    """Which of the steps 0 to `length` a contact sheet shows."""
    return sorted({round(x) for x in np.linspace(0, length, min(_PANELS, length + 1))})


def _draw(axes: mpl_axes.Axes, painter: base.Painter, time: float) -> None:
    """A moment on axes that hold nothing else; `Axes.clear` would take longer than the drawing."""
    drawn = (axes.collections, axes.patches, axes.lines, axes.texts, axes.images, axes.artists)
    for artist in [artist for kind in drawn for artist in kind]:
        artist.remove()
    painter.draw(axes, time)
