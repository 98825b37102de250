"""Episodes as text: transcripts, and pictures of text."""

from collections.abc import Callable

from matplotlib import axes as mpl_axes

from qmix_jax.envs import base as envs
from qmix_jax.render import base

_CHARACTER, _LINE = 0.63, 1.25
"""Width, with a margin, and line height of monospaced text, in font sizes."""
_MAX_COLUMNS, _MAX_LINES = 60, 30
"""Limits of a picture; the transcript has the full text."""

Describe = Callable[[envs.Frame], str]


def transcript(episode: base.Episode, describe: Describe) -> str:
    """Returns the episode as text, a numbered paragraph per step."""
    paragraphs = [
        f"[{step}] {describe(episode.frame(step)).rstrip()}" for step in range(episode.length + 1)
    ]
    total = episode.return_after(episode.length)
    last = f"{episode.ending} after {episode.length} steps, return {total:g}"
    return "\n".join([episode.spec.name, "", *paragraphs, "", last, ""])


def make(episode: base.Episode, describe: Describe) -> base.Painter:
    """Makes a painter of text, in the same font size for all steps."""
    steps = range(episode.length + 1)
    texts = [describe(episode.frame(step)).splitlines()[:_MAX_LINES] for step in steps]
    texts = [[line[:_MAX_COLUMNS] for line in lines] for lines in texts]
    columns = max(24, *(len(line) + 2 for lines in texts for line in lines))
    aspect = (max(map(len, texts)) + 1) * _LINE / (columns * _CHARACTER)

    def draw(axes: mpl_axes.Axes, time: float) -> None:
        base.set_view(axes, (0.0, -aspect), (1.0, 0.0))
        size = base.points_per_unit(axes) / (columns * _CHARACTER)
        style = {"family": "monospace", "fontsize": size, "ha": "left", "va": "top"}
        corner = (1 / columns, -0.5 * _LINE / (columns * _CHARACTER))
        base.draw_text(axes, corner, "\n".join(texts[round(time)]), linespacing=_LINE, **style)

    return base.Painter(draw, aspect, columns=3)
