"""Episodes in words: transcripts, and moments as text on paper."""

from collections.abc import Callable

from matplotlib import axes as mpl_axes

from qmix_jax.envs import base as envs
from qmix_jax.render import base

_CHARACTER, _LINE = 0.63, 1.25
"""Width, with a reserve, and line height of monospaced text, in font sizes."""
_WIDEST, _HIGHEST = 60, 30
"""Characters and lines of a moment on paper; what is longer is only in the transcript."""

Describe = Callable[[envs.Frame], str]


def transcript(episode: base.Episode, describe: Describe) -> str:
    """The episode from its first moment to its last."""
    steps = range(base.length(episode) + 1)
    moments = [describe(base.shot(episode, step)).rstrip() for step in steps]
    total = base.returned(episode, base.length(episode))
    last = f"{episode.ending} after {base.length(episode)} steps, return {total:g}"
    numbered = [f"[{step}] {moment}" for step, moment in zip(steps, moments, strict=True)]
    return "\n".join([episode.spec.name, "", *numbered, "", last, ""])


def make(episode: base.Episode, describe: Describe) -> base.Painter:
    """The painter of moments as text, all in one size."""
    steps = range(base.length(episode) + 1)
    moments = [describe(base.shot(episode, step)).splitlines()[:_HIGHEST] for step in steps]
    cut = [[line[:_WIDEST] for line in moment] for moment in moments]
    wide = max(24, *(len(line) + 2 for moment in cut for line in moment))
    high = max(len(moment) for moment in cut) + 1
    aspect = high * _LINE / (wide * _CHARACTER)

    def draw(axes: mpl_axes.Axes, time: float) -> None:
        base.window(axes, (0.0, -aspect), (1.0, 0.0))
        words = "\n".join(cut[round(time)])
        size = base.points_per_unit(axes) / (wide * _CHARACTER)
        style = {"family": "monospace", "fontsize": size, "ha": "left", "va": "top"}
        corner = (1 / wide, -0.5 * _LINE / (wide * _CHARACTER))
        base.label(axes, corner, words, linespacing=_LINE, **style)

    return base.Painter(draw, aspect, columns=3)
