"""The pictures of a report: curves, profile, improvement and sensitivity.

Colours are Okabe and Ito's, told apart by colour-blind eyes too; dashes follow when they run out.
"""

import io
import itertools
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import colors as mpl_colors
from matplotlib import figure as mpl_figure
from matplotlib import lines, ticker

from qmix_jax.console import learning_curves
from qmix_jax.reports import statistics, study, summary

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
_DASHES = ("-", "--", ":", "-.")
_INK, _MUTED, _PALE = "#222222", "#666666", "#aaaaaa"
_WORSE_BETTER = mpl_colors.LinearSegmentedColormap.from_list(
    "worse_better", ["#f2b48a", "#ffffff", "#8fc1e3"]
)
_BAND: dict[str, Any] = {
    "color": _COLOURS[0], "linewidth": 7, "alpha": 0.25, "solid_capstyle": "butt",
}  # fmt: skip
_SEED: dict[str, Any] = {
    "color": _MUTED, "linestyle": "", "marker": ".", "markersize": 4, "zorder": 2.5,
}  # fmt: skip
_SLICE: dict[str, Any] = {"color": _PALE, "linewidth": 0.9, "zorder": 1.6}
_SIZE = 10
_MOST_TICKS = 8
"""Values of a swept key that are all named along the axis and joined by a line."""


def png(drawing: mpl_figure.Figure) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    drawing.savefig(file, format="png", dpi=150)
    return file.getvalue()


def names(order: Sequence[str]) -> dict[str, str]:
    """What tables call each setting: its number, then its label."""
    return {label: f"{number}. {label}" for number, label in enumerate(order, 1)}


def short_names(found: study.Study, order: Sequence[str]) -> dict[str, str]:
    """What figures call each setting: its number, then its label with short keys.

    `hparams.gamma` is `gamma` and `algo.name` is `algo`, unless that could be two keys.
    """
    parts = {key: key.removesuffix(".name").rpartition(".")[2] for key in found.keys}
    ends = list(parts.values())
    short = {key: end if ends.count(end) == 1 else key for key, end in parts.items()}
    texts = {
        label: ", ".join(f"{short[key]}={value}" for key, value in values.items()) or label
        for label, values in found.settings.items()
    }
    return {label: f"{number}. {texts[label]}" for number, label in enumerate(order, 1)}


def curves(
    found: study.Study, called: Mapping[str, str], options: summary.Options
) -> mpl_figure.Figure:
    """Learning curves, a panel per task: interquartile mean over seeds, shaded its interval.

    Args:
      found: what was run.
      called: settings, the best first -> what to call them, as from `short_names`.
      options: how many to draw, and how.
    """
    drawn = _drawn(called, options)
    title = "Learning curves: interquartile mean over seeds, 95 % interval"
    drawing, panels = _figure(len(found.tasks), title + _rest(drawn, called))
    _settings_legend(drawing, panels[0], list(drawn.values()))
    for panel, task in zip(panels, found.tasks, strict=True):
        for i, label in _present(drawn, task.cells):
            steps, middle = task.cells[label].steps, summary.curve(task, label, options)
            marker = "o" if len(steps) == 1 else None
            panel.plot(steps, middle.value, **_line(i), marker=marker)
            panel.fill_between(
                steps, middle.low, middle.high, color=_line(i)["color"], alpha=0.14, linewidth=0
            )
        win_rate = task.metric == "eval/win_rate"
        unit = "greedy win rate" if win_rate else "greedy return"
        _finish(panel, task.name, unit)
        learning_curves.steps_axis(panel, _SIZE)
        panel.set_xlim(left=0)
        if win_rate:
            panel.set_ylim(-0.03, 1.03)
    return drawing


def profile(
    seen: Sequence[summary.View], called: Mapping[str, str], options: summary.Options
) -> mpl_figure.Figure:
    """Performance profiles, a panel per view: the share of runs that score above a threshold."""
    drawn = _drawn(called, options)
    title = "Performance profile: share of runs above a score, 95 % interval"
    drawing, panels = _figure(len(seen), title + _rest(drawn, called))
    _settings_legend(drawing, panels[0], list(drawn.values()))
    for panel, view in zip(panels, seen, strict=True):
        rows = {row.label: row for row in view.rows}
        for i, label in _present(drawn, rows):
            taus, share = summary.profile(view, rows[label], options)
            colour = _line(i)["color"]
            panel.plot(taus, share.value, **_line(i), drawstyle="steps-post")
            panel.fill_between(
                taus, share.low, share.high, color=colour, alpha=0.1, linewidth=0, step="post"
            )
        _finish(panel, view.title, "share of runs above")
        panel.set_xlabel(f"{view.unit}, threshold", fontsize=_SIZE, color=_MUTED)
        panel.set_ylim(-0.03, 1.03)
    return drawing


def improvement(
    seen: Sequence[summary.View], called: Mapping[str, str], options: summary.Options
) -> mpl_figure.Figure | None:
    """Probability that the setting of a row beats that of a column; None if nothing compares."""
    drawn = _drawn(called, options)
    compared = [view for view in seen if sum(row.label in drawn for row in view.rows) > 1]
    if not compared:
        return None
    sizes = [sum(row.label in drawn for row in view.rows) for view in compared]
    heights = [0.72 * size + 0.9 for size in sizes]
    width = 3.8 + 0.95 * max(sizes)
    drawing = mpl_figure.Figure(figsize=(max(width, 8), sum(heights) + 0.9), layout="constrained")
    title = "Probability of improvement: a run of the row beats one of the column"
    _title(drawing, title + _rest(drawn, called), 11)
    panels = drawing.subplots(len(compared), 1, squeeze=False, height_ratios=heights)
    for panel, view in zip(panels.flat, compared, strict=True):
        rows = [row for row in view.rows if row.label in drawn]
        _matrix(panel, rows, options)
        labels = [called[row.label] for row in rows]
        panel.set_yticks(range(len(rows)), [_short(label, 56) for label in labels])
        panel.set_xticks(range(len(rows)), [label.partition(".")[0] for label in labels])
        panel.tick_params(labelsize=_SIZE - 1, colors=_INK, length=0)
        panel.tick_params(labeltop=True, labelbottom=False)
        panel.set_title(_plain(view.title), loc="left", fontsize=_SIZE + 1, color=_INK)
        panel.spines[:].set_visible(False)
    return drawing


def sensitivity(
    found: study.Study, seen: Sequence[summary.View], key: str, options: summary.Options
) -> mpl_figure.Figure | None:
    """Scores against the values of one key, a panel per view; None for fewer than two values.

    Blue is the interquartile mean over the runs of all settings with that value, and its
    interval; thin lines join settings that differ in nothing else; dots are seeds.
    """
    values = list(dict.fromkeys(own[key] for own in found.settings.values() if key in own))
    if len(values) < 2:
        return None
    places, logarithmic = _places(values)
    drawing, panels = _figure(len(seen), f"Sensitivity to {key}")
    for panel, view in zip(panels, seen, strict=True):
        rows = [row for row in view.rows if key in found.settings[row.label]]
        _slices(panel, rows, found.settings, key, places)
        _middle(panel, rows, found.settings, key, (places, options))
        _finish(panel, view.title, view.unit)
        panel.set_xlabel(_plain(key), fontsize=_SIZE, color=_MUTED)
        if logarithmic:
            panel.set_xscale("log")
        if len(places) <= _MOST_TICKS or not _numeric(values):
            texts = [_short(value, 24) for value in places]
            slant = 20 if max(map(len, texts)) * len(texts) > 60 else 0
            panel.set_xticks(list(places.values()), texts, rotation=slant)
            panel.xaxis.set_minor_locator(ticker.NullLocator())
        if view.bounded:
            panel.set_ylim(-0.03, 1.03)
    looks = {
        "IQM over all runs with the value": {"color": _COLOURS[0], "marker": "o"},
        "its 95 % interval": _BAND,
        "a seed": _SEED,
        "settings that differ in nothing else": _SLICE,
    }
    handles = [panels[0].plot([], [], **look)[0] for look in looks.values()]
    _legend(drawing, handles, list(looks))
    return drawing


def _matrix(
    panel: mpl_axes.Axes, rows: Sequence[summary.RankingRow], options: summary.Options
) -> None:
    shade = np.full((len(rows), len(rows)), math.nan)
    for i, j in itertools.permutations(range(len(rows)), 2):
        chance = summary.improvement(rows[i], rows[j], options)
        shade[i, j] = chance.value
        panel.text(j, i, _chance(chance), ha="center", va="center", fontsize=_SIZE - 2, color=_INK)
    panel.imshow(shade, cmap=_WORSE_BETTER, vmin=0, vmax=1, aspect="auto")


def _chance(chance: statistics.Estimate) -> str:
    if math.isnan(chance.low):
        return f"{chance.value:.2f}"
    return f"{chance.value:.2f}\n[{chance.low:.2f}, {chance.high:.2f}]"


def _slices(
    panel: mpl_axes.Axes,
    rows: Sequence[summary.RankingRow],
    settings: Mapping[str, Mapping[str, str]],
    key: str,
    places: Mapping[str, float],
) -> None:
    """Each seed, and each set of settings that differ in this key alone."""
    slices: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    for row in rows:
        place = places[settings[row.label][key]]
        values = np.concatenate(row.scores)
        panel.plot([place] * len(values), values, **_SEED)
        others = tuple(item for item in settings[row.label].items() if item[0] != key)
        slices.setdefault(others, []).append((place, float(row.iqm.value)))
    for points in slices.values() if len(slices) > 1 else ():
        panel.plot(*zip(*sorted(points), strict=True), **_SLICE)


def _middle(
    panel: mpl_axes.Axes,
    rows: Sequence[summary.RankingRow],
    settings: Mapping[str, Mapping[str, str]],
    key: str,
    drawn_with: tuple[Mapping[str, float], summary.Options],
) -> None:
    """Interquartile mean and interval at each value."""
    places, options = drawn_with
    points = []
    for value, place in places.items():
        having = [row for row in rows if settings[row.label][key] == value]
        if not having:
            continue
        middle = summary.pooled(having, options)
        points.append((place, float(middle.value)))
        if not math.isnan(middle.low):
            panel.plot([place] * 2, [middle.low, middle.high], **_BAND)
    joined = "-" if len(points) <= _MOST_TICKS and _numeric(list(places)) else ""
    if points:
        panel.plot(
            *zip(*points, strict=True), f"o{joined}", color=_COLOURS[0], linewidth=1.6, markersize=6
        )


def _places(values: Sequence[str]) -> tuple[dict[str, float], bool]:
    """Where each value stands, in order, and whether the axis is logarithmic."""
    if not _numeric(values):
        return {value: float(i) for i, value in enumerate(sorted(values))}, False
    places = {value: float(value) for value in sorted(values, key=float)}
    low, high = min(places.values()), max(places.values())
    return places, low > 0 and high >= 10 * low


def _numeric(values: Sequence[str]) -> bool:
    try:
        return all(math.isfinite(float(value)) for value in values)
    except ValueError:
        return False


def _figure(n_panels: int, title: str) -> tuple[mpl_figure.Figure, list[mpl_axes.Axes]]:
    """A grid of panels."""
    columns = {1: 1, 2: 2, 4: 2}.get(n_panels, 3)
    n_lines = math.ceil(n_panels / columns)
    height = n_lines * (4.6 if n_panels == 1 else 3.6) + 0.6
    drawing = mpl_figure.Figure(figsize=({1: 9.5, 2: 12}.get(columns, 14), height))
    drawing.set_layout_engine("constrained")
    _title(drawing, title, 13)
    panels = list(drawing.subplots(n_lines, columns, squeeze=False).flat)
    for empty in panels[n_panels:]:
        empty.set_axis_off()
    return drawing, panels[:n_panels]


def _settings_legend(
    drawing: mpl_figure.Figure, panel: mpl_axes.Axes, texts: Sequence[str]
) -> None:
    handles = [panel.plot([], [], **_line(i))[0] for i in range(len(texts))]
    _legend(drawing, handles, [_short(text, 150) for text in texts])


def _legend(
    drawing: mpl_figure.Figure, handles: Sequence[lines.Line2D], texts: Sequence[str]
) -> None:
    """Below the panels, in as many columns as the texts leave room for."""
    width = drawing.get_figwidth()
    columns = max(1, min(3, int(12 * width / (max(map(len, texts)) + 10))))
    drawing.set_figheight(drawing.get_figheight() + 0.22 * math.ceil(len(texts) / columns))
    drawing.legend(
        handles,
        texts,
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=_SIZE - 1,
        labelcolor=_INK,
        handlelength=2.6,
    )


def _present(drawn: Iterable[str], known: Container[str]) -> list[tuple[int, str]]:
    """The drawn settings that a panel has, with the numbers of their looks."""
    return [(i, label) for i, label in enumerate(drawn) if label in known]


def _drawn(called: Mapping[str, str], options: summary.Options) -> dict[str, str]:
    return dict(itertools.islice(called.items(), options.drawn))


def _title(drawing: mpl_figure.Figure, text: str, size: int) -> None:
    drawing.suptitle(_plain(text), x=0.012, ha="left", fontsize=size, fontweight="bold", color=_INK)


def _rest(drawn: Mapping[str, str], called: Mapping[str, str]) -> str:
    if len(drawn) == len(called):
        return ""
    return f" (best {len(drawn)} of {len(called)} settings)"


def _finish(panel: mpl_axes.Axes, title: str, unit: str) -> None:
    learning_curves.style(panel, _SIZE)
    panel.set_title(_plain(title), loc="left", fontsize=_SIZE + 1, color=_INK)
    panel.set_ylabel(unit, fontsize=_SIZE, color=_MUTED)


def _line(i: int) -> dict[str, Any]:
    dash = _DASHES[i // len(_COLOURS) % len(_DASHES)]
    return {"color": _COLOURS[i % len(_COLOURS)], "linestyle": dash, "linewidth": 1.9}


def _short(text: str, width: int) -> str:
    return _plain(text if len(text) <= width else f"{text[: width - 1]}…")


def _plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")
