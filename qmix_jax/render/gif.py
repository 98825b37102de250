"""Writes animated GIFs: one palette for all frames, differences between frames only."""

from typing import BinaryIO

from PIL import Image

from qmix_jax.render import pictures

_COLOURS = 64
_SAMPLES = 8
"""Number of frames that the palette is computed from."""
_PAUSE = 1.5
"""Duration of the last frame, in seconds."""


def write(file: BinaryIO, animation: pictures.Animation, fps: float) -> None:
    """Writes an endlessly repeating GIF.

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


def _palette(animation: pictures.Animation) -> Image.Image:
    """The colours that represent a sample of the frames best."""
    step = max(1, animation.count // _SAMPLES)
    sample = [animation.frame(i) for i in range(0, animation.count, step)]
    width, height = sample[0].size
    strip = Image.new("RGB", (width, height * len(sample)))
    for i, frame in enumerate(sample):
        strip.paste(frame, (0, i * height))
    return strip.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
