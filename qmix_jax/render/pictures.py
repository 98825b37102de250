"""Animations, GIF files, and contact sheets."""

import io
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_agg
from PIL import Image

from qmix_jax.render import base

_CAPTION, _DPI = 0.34, 100
"""Frame: height of the caption in inches, and dots per inch."""
_SHEET_WIDTH, _GAP, _SHEET_CAPTION, _SHEET_DPI = 9.7, 0.06, 0.25, 150
"""Contact sheet: width, gap and height of a caption in inches; dots per inch."""
_MAX_PANELS = 12
_COLOURS, _SAMPLES = 64, 8
"""GIF: size of the palette, and number of frames from which it is computed."""
_PAUSE = 1.5
"""GIF: duration of the last frame, in seconds."""


class Animation(NamedTuple):
    """Number of frames, and a function that draws the i-th."""

    count: int
    frame: Callable[[int], Image.Image]


def animate(episode: base.Episode, painter: base.Painter) -> Animation:
    """Makes an animation: a frame of the start, then `frames_per_step` frames for each env step."""
    height = base.FRAME_WIDTH * painter.aspect + _CAPTION
    figure = mpl_figure.Figure(figsize=(base.FRAME_WIDTH, height), dpi=_DPI)
    canvas = backend_agg.FigureCanvasAgg(figure)
    axes = figure.add_axes((0.012, 0.01, 0.976, 1 - _CAPTION / height - 0.01))
    axes.set_axis_off()
    y = 1 - 0.5 * _CAPTION / height
    style: dict[str, Any] = {"va": "center", "fontsize": 10, "color": base.INK}
    figure.text(0.014, y, episode.spec.name, ha="left", **style)
    right = figure.text(0.986, y, "", ha="right", **style)

    def frame(number: int) -> Image.Image:
        time = number / painter.frames_per_step
        _draw(axes, painter, time)
        right.set_text(caption(episode, time))
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())

    return Animation(episode.length * painter.frames_per_step + 1, frame)


def write_gif(file: BinaryIO, animation: Animation, fps: float) -> None:
    """Writes an endlessly repeating GIF: one palette, differences between frames only.

    Args:
      file: open for writing.
      animation: frames of one size.
      fps: frames per second, at most 50; GIF durations are multiples of 10 ms.
    """
    palette = _palette(animation)
    frames = (
        animation.frame(i).quantize(palette=palette, dither=Image.Dither.NONE)
        for i in range(animation.count)
    )
    duration = max(20, round(100 / fps) * 10)
    durations = [duration] * (animation.count - 1) + [int(1000 * _PAUSE)]
    first = next(frames)
    options = {"save_all": True, "append_images": frames, "duration": durations, "loop": 0}
    first.save(file, "GIF", optimize=False, **options)


def _palette(animation: Animation) -> Image.Image:
    """Returns the colours that represent a sample of the frames best."""
    step = max(1, animation.count // _SAMPLES)
    sample = [animation.frame(i) for i in range(0, animation.count, step)]
    width, height = sample[0].size
    strip = Image.new("RGB", (width, height * len(sample)))
    for i, frame in enumerate(sample):
        strip.paste(frame, (0, i * height))
    return strip.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def caption(episode: base.Episode, time: float) -> str:
    """Returns step and return so far; after the last step also the ending."""
    step = int(time + 1e-9)
    text = f"step {step}   return {episode.return_after(step):.2f}"
    return f"{text}   {episode.ending}" if step == episode.length else text


def sheet(episode: base.Episode, painter: base.Painter) -> bytes:
    """Draws a PNG of evenly spaced steps, first and last included, each with its caption."""
    steps = sheet_steps(episode.length)
    columns = min(painter.columns, len(steps))
    panel = (_SHEET_WIDTH - _GAP) / painter.columns - _GAP
    pitch = panel * painter.aspect + _SHEET_CAPTION
    width = columns * (panel + _GAP) + _GAP
    height = -(-len(steps) // columns) * pitch + _SHEET_CAPTION + _GAP
    figure = mpl_figure.Figure(figsize=(width, height), dpi=_SHEET_DPI)
    title = (
        f"{episode.spec.name}: return {episode.return_after(episode.length):.2f}, "
        f"{episode.ending} after {episode.length} steps"
    )
    style: dict[str, Any] = {"va": "center", "color": base.INK}
    figure.text(_GAP / width, 1 - 0.5 * _SHEET_CAPTION / height, title, fontsize=10, **style)
    for i, step in enumerate(steps):
        row, column = divmod(i, columns)
        left, top = _GAP + column * (panel + _GAP), _SHEET_CAPTION + row * pitch
        bottom = 1 - (top + pitch) / height
        box = (left / width, bottom, panel / width, panel * painter.aspect / height)
        axes = figure.add_axes(box)
        axes.set_axis_off()
        _draw(axes, painter, float(step))
        x, y = (left + 0.5 * panel) / width, 1 - (top + 0.55 * _SHEET_CAPTION) / height
        figure.text(x, y, caption(episode, step), ha="center", fontsize=8, **style)
    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png")
    picture = Image.open(raw).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(small, "PNG", optimize=True)
    return small.getvalue()


def sheet_steps(length: int) -> list[int]:
    """Returns the steps, from 0 to `length`, of a contact sheet."""
    return sorted({round(x) for x in np.linspace(0, length, min(_MAX_PANELS, length + 1))})


def _draw(axes: mpl_axes.Axes, painter: base.Painter, time: float) -> None:
    """Draws a moment on emptied axes; `Axes.clear` would take longer than the drawing."""
    groups = (axes.collections, axes.patches, axes.lines, axes.texts, axes.images, axes.artists)
    for artist in [artist for group in groups for artist in group]:
        artist.remove()
    painter.draw(axes, time)
