"""Figures of a report: curves, profile, improvement and sensitivity.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart; dashes tell apart
settings that share a colour.
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
from qmix_jax.reports import study, summary

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
_MAX_TICKS = 8
"""Up to this many values of a swept key, each has a tick and a line connects them."""


def png(figure: mpl_figure.Figure) -> bytes:
    """Returns the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def numbered(order: Sequence[str]) -> dict[str, str]:
    """Returns setting -> its name in tables: rank and label."""
    return {label: f"{rank}. {label}" for rank, label in enumerate(order, 1)}


def numbered_short(data: study.Study, order: Sequence[str]) -> dict[str, str]:
    """Returns setting -> its name in figures: rank, and label with short keys.

    `hparams.gamma` is `gamma` and `algo.name` is `algo`, unless two keys would get the same name.
    """
    ends = {key: key.removesuffix(".name").rpartition(".")[2] for key in data.keys}
    all_ends = list(ends.values())
    short = {key: end if all_ends.count(end) == 1 else key for key, end in ends.items()}
    texts = {
        label: ", ".join(f"{short[key]}={value}" for key, value in values.items()) or label
        for label, values in data.settings.items()
    }
    return {label: f"{rank}. {texts[label]}" for rank, label in enumerate(order, 1)}


def curves(
    data: study.Study, names: Mapping[str, str], options: summary.Options
) -> mpl_figure.Figure:
    """Draws learning curves, a panel per task: interquartile mean over seeds and its interval.

    Args:
      data: the runs.
      names: setting -> name, the best first, as from `numbered_short`.
      options: number of settings, and of bootstrap samples.
    """
    title = "Learning curves: interquartile mean over seeds, 95 % interval"
    top, figure, panels = _settings_figure(len(data.tasks), title, names, options)
    for panel, task in zip(panels, data.tasks, strict=True):
        for i, label in _present(top, task.results):
            steps, iqm = task.results[label].steps, summary.curve(task, label, options)
            panel.plot(steps, iqm.value, **_line(i), marker="o" if len(steps) == 1 else None)
            panel.fill_between(steps, iqm.low, iqm.high, color=_colour(i), alpha=0.14, linewidth=0)
        win_rate = task.metric == "eval/win_rate"
        _label_panel(panel, task.name, "greedy win rate" if win_rate else "greedy return")
        learning_curves.steps_axis(panel, _SIZE)
        panel.set_xlim(left=0)
        if win_rate:
            panel.set_ylim(-0.03, 1.03)
    return figure


def profile(
    rankings: Sequence[summary.Ranking], names: Mapping[str, str], options: summary.Options
) -> mpl_figure.Figure:
    """Draws the share of runs that score above each threshold, a panel per ranking."""
    title = "Performance profile: share of runs above a score, 95 % interval"
    top, figure, panels = _settings_figure(len(rankings), title, names, options)
    for panel, ranking in zip(panels, rankings, strict=True):
        rows = {row.setting: row for row in ranking.rows}
        for i, label in _present(top, rows):
            taus, share = summary.profile(ranking, rows[label], options)
            panel.plot(taus, share.value, **_line(i), drawstyle="steps-post")
            style: dict[str, Any] = {"color": _colour(i), "alpha": 0.1, "linewidth": 0}
            panel.fill_between(taus, share.low, share.high, step="post", **style)
        _label_panel(panel, ranking.title, "share of runs above")
        panel.set_xlabel(f"{ranking.unit}, threshold", fontsize=_SIZE, color=_MUTED)
        panel.set_ylim(-0.03, 1.03)
    return figure


def improvement(
    rankings: Sequence[summary.Ranking], names: Mapping[str, str], options: summary.Options
) -> mpl_figure.Figure | None:
    """Draws the probability that a row's setting beats a column's; None for fewer than two."""
    top = _top(names, options)
    blocks = {r.title: [row for row in r.rows if row.setting in top] for r in rankings}
    blocks = {title: rows for title, rows in blocks.items() if len(rows) > 1}
    if not blocks:
        return None
    heights = [0.72 * len(rows) + 0.9 for rows in blocks.values()]
    width = 3.8 + 0.95 * max(map(len, blocks.values()))
    figure = mpl_figure.Figure(figsize=(max(width, 8), sum(heights) + 0.9), layout="constrained")
    title = "Probability of improvement: a run of the row beats one of the column"
    _title(figure, title + _best_of(top, names), 11)
    panels = figure.subplots(len(blocks), 1, squeeze=False, height_ratios=heights)
    for panel, (task, rows) in zip(panels.flat, blocks.items(), strict=True):
        _matrix(panel, rows, options)
        labels = [names[row.setting] for row in rows]
        panel.set_yticks(range(len(rows)), [_shorten(label, 56) for label in labels])
        panel.set_xticks(range(len(rows)), [label.partition(".")[0] for label in labels])
        panel.tick_params(labelsize=_SIZE - 1, colors=_INK, length=0)
        panel.tick_params(labeltop=True, labelbottom=False)
        panel.set_title(_plain(task), loc="left", fontsize=_SIZE + 1, color=_INK)
        panel.spines[:].set_visible(False)
    return figure


def sensitivity(
    data: study.Study, rankings: Sequence[summary.Ranking], key: str, options: summary.Options
) -> mpl_figure.Figure | None:
    """Draws scores over the values of one key, a panel per ranking; None for fewer than two.

    Blue: interquartile mean and interval over the runs of all settings with that value. Thin
    lines join settings that are otherwise equal; dots are seeds.
    """
    values = data.values(key)
    if len(values) < 2:
        return None
    positions, logarithmic = _positions(values)
    figure, panels = _figure(len(rankings), f"Sensitivity to {key}")
    for panel, ranking in zip(panels, rankings, strict=True):
        rows = [row for row in ranking.rows if key in data.settings[row.setting]]
        _plot_slices(panel, rows, data.settings, key, positions)
        rows_at = {
            position: [row for row in rows if data.settings[row.setting][key] == value]
            for value, position in positions.items()
        }
        _plot_pooled(panel, rows_at, _numeric(values), options)
        _label_panel(panel, ranking.title, ranking.unit)
        panel.set_xlabel(_plain(key), fontsize=_SIZE, color=_MUTED)
        if logarithmic:
            panel.set_xscale("log")
        if len(positions) <= _MAX_TICKS or not _numeric(values):
            texts = [_shorten(value, 24) for value in positions]
            rotation = 20 if max(map(len, texts)) * len(texts) > 60 else 0
            panel.set_xticks(list(positions.values()), texts, rotation=rotation)
            panel.xaxis.set_minor_locator(ticker.NullLocator())
        if ranking.bounded:
            panel.set_ylim(-0.03, 1.03)
    styles = {
        "IQM over all runs with the value": {"color": _COLOURS[0], "marker": "o"},
        "95 % interval": _BAND,
        "a seed": _SEED,
        "settings that differ in this key only": _SLICE,
    }
    handles = [panels[0].plot([], [], **style)[0] for style in styles.values()]
    _legend(figure, handles, list(styles))
    return figure


def _matrix(
    panel: mpl_axes.Axes, rows: Sequence[summary.RankingRow], options: summary.Options
) -> None:
    shade = np.full((len(rows), len(rows)), math.nan)
    for i, j in itertools.permutations(range(len(rows)), 2):
        p = summary.improvement(rows[i], rows[j], options)
        shade[i, j] = p.value
        interval = "" if math.isnan(p.low) else f"\n[{p.low:.2f}, {p.high:.2f}]"
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": _INK}
        panel.text(j, i, f"{p.value:.2f}{interval}", fontsize=_SIZE - 2, **style)
    panel.imshow(shade, cmap=_WORSE_BETTER, vmin=0, vmax=1, aspect="auto")


def _plot_slices(
    panel: mpl_axes.Axes,
    rows: Sequence[summary.RankingRow],
    settings: Mapping[str, Mapping[str, str]],
    key: str,
    positions: Mapping[str, float],
) -> None:
    """Draws each seed, and a line per set of settings that differ in this key only."""
    slices: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    for row in rows:
        position = positions[settings[row.setting][key]]
        panel.plot([position] * row.seeds, row.pooled_scores, **_SEED)
        others = tuple(item for item in settings[row.setting].items() if item[0] != key)
        slices.setdefault(others, []).append((position, float(row.iqm.value)))
    for points in slices.values() if len(slices) > 1 else ():
        panel.plot(*zip(*sorted(points), strict=True), **_SLICE)


def _plot_pooled(
    panel: mpl_axes.Axes,
    rows_at: Mapping[float, Sequence[summary.RankingRow]],
    numeric: bool,
    options: summary.Options,
) -> None:
    """Draws interquartile mean and interval at each position."""
    points = []
    for position, rows in rows_at.items():
        if rows:
            iqm = summary.pooled(rows, options)
            points.append((position, float(iqm.value)))
            panel.plot([position] * 2, [iqm.low, iqm.high], **_BAND)
    style = {"marker": "o", "markersize": 6, "color": _COLOURS[0], "linewidth": 1.6}
    joined = numeric and len(points) <= _MAX_TICKS
    if points:
        panel.plot(*zip(*points, strict=True), linestyle="-" if joined else "", **style)


def _positions(values: Sequence[str]) -> tuple[dict[str, float], bool]:
    """Returns the position of each value, in order, and whether the axis is logarithmic."""
    if not _numeric(values):
        return {value: float(i) for i, value in enumerate(sorted(values))}, False
    positions = {value: float(value) for value in sorted(values, key=float)}
    low, high = min(positions.values()), max(positions.values())
    return positions, low > 0 and high >= 10 * low


def _numeric(values: Sequence[str]) -> bool:
    try:
        return all(math.isfinite(float(value)) for value in values)
    except ValueError:
        return False


def _settings_figure(
    n_panels: int, title: str, names: Mapping[str, str], options: summary.Options
) -> tuple[dict[str, str], mpl_figure.Figure, list[mpl_axes.Axes]]:
    """Returns the names of the top settings, a figure with their legend, and its panels."""
    top = _top(names, options)
    figure, panels = _figure(n_panels, title + _best_of(top, names))
    handles = [panels[0].plot([], [], **_line(i))[0] for i in range(len(top))]
    _legend(figure, handles, [_shorten(name, 150) for name in top.values()])
    return top, figure, panels


def _figure(n_panels: int, title: str) -> tuple[mpl_figure.Figure, list[mpl_axes.Axes]]:
    """Makes a figure with a grid of panels."""
    columns = {1: 1, 2: 2, 4: 2}.get(n_panels, 3)
    n_rows = math.ceil(n_panels / columns)
    height = n_rows * (4.6 if n_panels == 1 else 3.6) + 0.6
    width = {1: 9.5, 2: 12}.get(columns, 14)
    figure = mpl_figure.Figure(figsize=(width, height), layout="constrained")
    _title(figure, title, 13)
    panels = list(figure.subplots(n_rows, columns, squeeze=False).flat)
    for unused in panels[n_panels:]:
        unused.set_axis_off()
    return figure, panels[:n_panels]


def _legend(
    figure: mpl_figure.Figure, handles: Sequence[lines.Line2D], texts: Sequence[str]
) -> None:
    """Adds a legend below the panels, in as many columns as fit."""
    columns = max(1, min(3, int(12 * figure.get_figwidth() / (max(map(len, texts)) + 10))))
    figure.set_figheight(figure.get_figheight() + 0.22 * math.ceil(len(texts) / columns))
    style: dict[str, Any] = {"frameon": False, "fontsize": _SIZE - 1, "labelcolor": _INK}
    style |= {"loc": "outside lower left", "ncols": columns, "handlelength": 2.6}
    figure.legend(handles, texts, **style)


def _present(top: Iterable[str], known: Container[str]) -> list[tuple[int, str]]:
    """Returns the top settings in a panel, each with the index of its line style."""
    return [(i, label) for i, label in enumerate(top) if label in known]


def _top(names: Mapping[str, str], options: summary.Options) -> dict[str, str]:
    return dict(itertools.islice(names.items(), options.top))


def _best_of(top: Mapping[str, str], names: Mapping[str, str]) -> str:
    return f" (best {len(top)} of {len(names)} settings)" if len(top) < len(names) else ""


def _title(figure: mpl_figure.Figure, text: str, size: int) -> None:
    figure.suptitle(_plain(text), x=0.012, ha="left", fontsize=size, fontweight="bold", color=_INK)


def _label_panel(panel: mpl_axes.Axes, title: str, unit: str) -> None:
    learning_curves.style(panel, _SIZE)
    panel.set_title(_plain(title), loc="left", fontsize=_SIZE + 1, color=_INK)
    panel.set_ylabel(unit, fontsize=_SIZE, color=_MUTED)


def _line(i: int) -> dict[str, Any]:
    dash = _DASHES[i // len(_COLOURS) % len(_DASHES)]
    return {"color": _colour(i), "linestyle": dash, "linewidth": 1.9}


def _colour(i: int) -> str:
    return _COLOURS[i % len(_COLOURS)]


def _shorten(text: str, width: int) -> str:
    return _plain(text if len(text) <= width else f"{text[: width - 1]}…")


def _plain(text: str) -> str:
    """Escapes dollar signs, which start a formula in matplotlib."""
    return text.replace("$", r"\$")
