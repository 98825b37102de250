"""Animated GIFs: one palette for all frames, only what changes stored."""

from typing import BinaryIO

from PIL import Image

from qmix_jax.render import pictures

_COLOURS = 64
_SAMPLES = 8
"""Frames that the palette is made from."""
_PAUSE = 1.5
"""Seconds that the last frame stays."""


def write(file: BinaryIO, film: pictures.Animation, fps: float) -> None:
    """Writes an endlessly repeating GIF.

    Args:
      file: open for writing.
      film: pictures of one size.
      fps: frames per second, at most 50; a GIF counts in hundredths of a second.
    """
    palette = _palette(film)
    small = (
        film.frame(i).quantize(palette=palette, dither=Image.Dither.NONE) for i in range(film.count)
    )
    each = max(20, round(100 / fps) * 10)
    durations = [each] * (film.count - 1) + [int(1000 * _PAUSE)]
    first = next(small)
    options = {"save_all": True, "append_images": small, "duration": durations, "loop": 0}
    first.save(file, "GIF", optimize=False, **options)


def _palette(film: pictures.Animation) -> Image.Image:
    """The colours that represent a few frames best."""
    chosen = [film.frame(i) for i in range(0, film.count, max(1, film.count // _SAMPLES))]
    width, height = chosen[0].size
    strip = Image.new("RGB", (width, height * len(chosen)))
    for number, frame in enumerate(chosen):
        strip.paste(frame, (0, number * height))
    return strip.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
