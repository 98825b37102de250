"""The end of a run for people: learning curves, a summary, and joint tables of small games."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.box
import rich.columns
import rich.console
import rich.table
import rich.text
import scipy.special
from matplotlib import axes as mpl_axes
from matplotlib import figure as mpl_figure
from matplotlib import ticker

from qmix_jax import config
from qmix_jax.console import progress
from qmix_jax.envs import base

_SCORES = {"eval/win_rate": "Greedy win rate", "eval/return": "Greedy return"}
_UNITS = {"eval/win_rate": "share of episodes won", "eval/return": "episode return"}
_DIAGNOSTICS = {
    "train/loss": "Loss",
    "train/td_error_abs": "|TD error|",
    "train/q_taken": "Q of taken actions",
    "train/target": "Target",
    "train/grad_norm": "Gradient norm",
}
_LOGARITHMIC = ("train/loss", "train/grad_norm")
_BLUE, _ORANGE, _INK, _MUTED = "#0072B2", "#D55E00", "#222222", "#666666"  # Okabe and Ito's palette


@dataclasses.dataclass(frozen=True)
class Totals:
    """What a run took: env steps and gradient steps of one member, and wall-clock seconds."""

    env_steps: int
    gradient_steps: int
    compile_s: float
    train_s: float
    eval_s: float


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds and its 95 % interval (Student's t with P - 1 degrees of freedom).

    Args:
      values: f[P, ...].
    Returns:
      mean, low and high, each f64[...]; low and high are NaN for P = 1.
    """
    values = np.asarray(values, np.float64)
    n, mean = len(values), values.mean(axis=0)
    if n < 2:
        return mean, np.full_like(mean, math.nan), np.full_like(mean, math.nan)
    half = scipy.special.stdtrit(n - 1, 0.975) * values.std(axis=0, ddof=1) / math.sqrt(n)
    return mean, mean - half, mean + half


def series(metrics: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """One metric as a table; env steps at which some seed lacks a value are left out.

    Args:
      metrics: columns as from `storage.read_metrics`.
      name: a metric; one that is no column has no values.
    Returns:
      env steps f64[K], increasing, and values f64[P, K] in the order of the seeds.
    """
    seeds = np.unique(metrics["seed"])
    column = metrics.get(name, np.full(len(metrics["seed"]), math.nan))
    present = np.isfinite(column)
    steps = np.unique(metrics["env_steps"][present])
    values = np.full((len(seeds), len(steps)), math.nan)
    rows = np.searchsorted(seeds, metrics["seed"][present])
    values[rows, np.searchsorted(steps, metrics["env_steps"][present])] = column[present]
    complete = np.isfinite(values).all(axis=0)
    return steps[complete], values[:, complete]


def figure(metrics: Mapping[str, np.ndarray], title: str = "") -> mpl_figure.Figure:
    """The learning curves: evaluation above, training diagnostics below, mean and 95 % interval.

    Panels without values are left out. Loss and gradient norm have a logarithmic axis as long as
    they are positive.

    Args:
      metrics: columns as from `storage.read_metrics`.
    Raises:
      ConfigError: no metric has values.
    """
    rows = [
        [(name, label) for name, label in names.items() if series(metrics, name)[0].size]
        for names in (_SCORES, _DIAGNOSTICS)
    ]
    heights = [height for height, row in zip((3.6, 2.2), rows, strict=True) if row]
    rows = [row for row in rows if row]
    if not rows:
        raise config.ConfigError(
            "report: the metrics have no finite value of "
            f"{', '.join((*_SCORES, *_DIAGNOSTICS))} to draw; let the run reach an evaluation"
        )
    drawing = mpl_figure.Figure(figsize=(12, sum(heights) + 0.5), layout="constrained")
    n_seeds = len(np.unique(metrics["seed"]))
    seeds = f"{n_seeds} seed{'s' if n_seeds > 1 else ''}"
    heading = " · ".join(part for part in (title, seeds) if part)
    drawing.suptitle(heading, x=0.012, ha="left", fontsize=14, fontweight="bold", color=_INK)
    bands = drawing.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)
    for band, row in zip(bands.flat, rows, strict=True):
        panels = band.subplots(1, len(row), squeeze=False)
        for panel, (name, label) in zip(panels.flat, row, strict=True):
            _panel(panel, series(metrics, name), name, label)
    return drawing


def _panel(
    panel: mpl_axes.Axes, data: tuple[np.ndarray, np.ndarray], name: str, label: str
) -> None:
    steps, values = data
    score = name in _SCORES
    colour, size = (_BLUE, 11) if score else (_ORANGE, 9)
    mean, low, high = interval(values)
    marker = "o" if len(steps) == 1 else None
    if len(values) > 1:
        panel.fill_between(
            steps, low, high, color=colour, alpha=0.15, linewidth=0, label="95 % interval"
        )
        seeds = panel.plot(steps, values.T, color=colour, alpha=0.35, linewidth=0.8)
        seeds[0].set_label("each seed")
    width = 2.0 if score else 1.5
    panel.plot(steps, mean, color=colour, linewidth=width, marker=marker, label="mean")
    panel.set_title(label, loc="left", fontsize=size + 1, color=_INK)
    if score:
        panel.set_title(
            f"final {_estimate(name, values[:, -1])}", loc="right", fontsize=10, color=_MUTED
        )
        panel.set_ylabel(_UNITS[name], fontsize=size, color=_MUTED)
        panel.legend(loc="best", frameon=False, fontsize=9, labelcolor=_MUTED)
    if name in _LOGARITHMIC and (values > 0).all():
        panel.set_yscale("log")
        subs = (1, 2, 5) if values.max() < 1000 * values.min() else (1,)
        panel.yaxis.set_major_locator(ticker.LogLocator(subs=subs))
        panel.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        panel.yaxis.set_minor_locator(ticker.NullLocator())
    panel.set_ylim(*_limits(values, name, panel.get_yscale()))
    panel.set_xlim(0, 1.01 * max(steps[-1], 1))
    steps_axis(panel, size)
    style(panel, size)


def _limits(values: np.ndarray, name: str, scale: str) -> tuple[float, float]:
    """Limits from the seeds' own values: the interval of few seeds would dwarf the curves."""
    if name == "eval/win_rate":
        return -0.03, 1.03
    low, high = float(values.min()), float(values.max())
    if scale == "log":
        margin = max((high / low) ** 0.08, 1.05)
        return low / margin, high * margin
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def steps_axis(panel: mpl_axes.Axes, size: int) -> None:
    """Env steps along the horizontal axis; `size` is the font's, in points."""
    panel.set_xlabel("env steps", fontsize=size, color=_MUTED)
    panel.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: progress.human(x)))
    panel.xaxis.set_major_locator(ticker.MaxNLocator(6 if size > 10 else 4))


def style(panel: mpl_axes.Axes, size: int) -> None:
    """The look that all panels share; `size` is the font's, in points."""
    panel.tick_params(which="both", labelsize=size - 1, colors=_MUTED, length=3)
    panel.grid(True, color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color("#aaaaaa")


def summary(
    metrics: Mapping[str, np.ndarray],
    totals: Totals,
    files: Sequence[str | os.PathLike[str]] = (),
    console: rich.console.Console | None = None,
) -> None:
    """Prints how well a run did, what it took and where its files are.

    Args:
      metrics: columns as from `storage.read_metrics`.
      totals: what the run took.
      files: paths to list, relative to the working directory where that is shorter.
      console: where to print; standard output where left out.
    """
    console = console or progress.terminal()
    n_seeds = len(np.unique(metrics["seed"]))
    table = _score_table("Result", "greedy evaluation")
    for name, label in reversed(_SCORES.items()):
        steps, values = series(metrics, name)
        if values.size:
            label = label.removeprefix("Greedy ")
            ended = steps[-1] >= totals.env_steps  # else the run was cut after it
            when = "final" if ended else f"after {progress.human(steps[-1])} env steps"
            _score_row(table, f"{label}, {when}", name, values[:, -1])
            _score_row(table, f"{label}, each seed's best", name, values.max(axis=1))
    if table.row_count:
        console.print(table)
    rate = totals.env_steps * n_seeds / totals.train_s if totals.train_s > 0 else math.nan
    seconds = totals.compile_s + totals.train_s + totals.eval_s
    for label, text in (
        ("steps", f"{totals.env_steps:,} env steps, {totals.gradient_steps:,} gradient steps"),
        ("speed", f"{progress.human(rate)} env steps/s over {n_seeds} seed(s), training alone"),
        (
            "time",
            f"{progress.duration(seconds)} = compile {totals.compile_s:.1f} s"
            f" + train {totals.train_s:.1f} s + evaluate {totals.eval_s:.1f} s",
        ),
        *(("file", _short(path)) for path in files),
    ):
        console.print(rich.text.Text(f"  {label:<6} {text}"), soft_wrap=True)


def scores(
    title: str,
    metrics: Mapping[str, np.ndarray],
    console: rich.console.Console | None = None,
) -> None:
    """Prints mean, 95 % interval and range over seeds of the metrics of one evaluation.

    Args:
      title: what was evaluated.
      metrics: as an evaluation's, for example `return` -> f[P].
      console: where to print; standard output where left out.
    """
    table = _score_table(None, "evaluation")
    for name, values in metrics.items():
        _score_row(table, name, f"eval/{name}", values)
    console = console or progress.terminal()
    console.print(rich.text.Text(title, style="bold"), table, sep="\n")


def joint_tables(
    points: Sequence[base.DecisionPoint],
    learned: Sequence[np.ndarray],
    console: rich.console.Console | None = None,
) -> None:
    """Prints the learned joint values of a two-agent game beside the exact ones, greedy cell bold.

    Args:
      points: decision points of the environment.
      learned: for each point f32[P, A, A], joint values; rows are agent 1, columns agent 2.
      console: where to print; standard output where left out.
    Raises:
      ValueError: a game that does not have two agents, or as many tables as points.
    """
    for point, values in zip(points, learned, strict=True):
        exact = {name: table for name, table in point.exact.items() if name != "independent"}
        title = f"{point.name} (rows: agent 1, columns: agent 2)"
        _side_by_side(title, values, {"optimal": point.optimal, **exact}, console)


def utility_tables(
    points: Sequence[base.DecisionPoint],
    learned: Sequence[np.ndarray],
    console: rich.console.Console | None = None,
) -> None:
    """Prints learned utilities beside the exact ones of independent learners.

    Args:
      points: decision points of the environment; `exact["independent"]` f32[N, A] is shown.
      learned: for each point f32[P, N, A]; rows are agents, columns actions.
      console: where to print; standard output where left out.
    Raises:
      ValueError: not as many tables as points.
    """
    for point, values in zip(points, learned, strict=True):
        exact = {name: table for name, table in point.exact.items() if name == "independent"}
        _side_by_side(point.name, values, exact, console, rows_are_agents=True)


def _side_by_side(
    title: str,
    learned: np.ndarray,
    exact: Mapping[str, Any],
    console: rich.console.Console | None,
    rows_are_agents: bool = False,
) -> None:
    learned = np.asarray(learned)
    if learned.ndim != 3:
        raise ValueError(
            f"report: {title!r} has learned values {learned.shape}; tables need [P, rows, columns]"
        )
    n_seeds = len(learned)
    name = "learned, mean ± std" if n_seeds > 1 else "learned"
    std = learned.std(axis=0, ddof=1) if n_seeds > 1 else None
    tables = [_table(name, learned.mean(axis=0), std, rows_are_agents)]
    rows, columns = learned.shape[1:]
    for key, values in exact.items():
        tables.append(_table(key, np.asarray(values)[:rows, :columns], None, rows_are_agents))
    console = console or progress.terminal()
    seeds = f"{n_seeds} seed{'s' if n_seeds > 1 else ''}"
    console.print(rich.text.Text(f"{title}, {seeds}", style="bold"))
    console.print(rich.columns.Columns(tables, padding=(0, 1)))


def _table(
    title: str, mean: np.ndarray, std: np.ndarray | None, rows_are_agents: bool
) -> rich.table.Table:
    """One table of values; the best cell, or the best of each agent's row, is bold."""
    table = rich.table.Table(
        title=title, title_justify="left", box=rich.box.SIMPLE_HEAD, show_header=rows_are_agents
    )
    if rows_are_agents:
        table.add_column("")
    for action in range(mean.shape[1]):
        table.add_column(f"action {action}", justify="right")
    best = mean == np.nanmax(mean, axis=1 if rows_are_agents else None, keepdims=True)
    rows, columns = mean.shape
    for row in range(rows):
        head = [rich.text.Text(f"agent {row + 1}")] if rows_are_agents else []
        cells = [_cell(mean[row, k], None if std is None else std[row, k]) for k in range(columns)]
        styles = ["bold" if flag else "" for flag in best[row]]
        table.add_row(*head, *map(rich.text.Text, cells, styles))
    return table


def _cell(mean: float, std: float | None) -> str:
    if np.isnan(mean):  # an action that this agent does not have
        return ""
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def _score_table(title: str | None, heading: str) -> rich.table.Table:
    table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
    table.add_column(heading)
    table.add_column("mean [95 % interval]", justify="right")
    table.add_column("seeds, min .. max", justify="right")
    return table


def _score_row(table: rich.table.Table, label: str, name: str, values: np.ndarray) -> None:
    extremes = f"{values.min():.3g} .. {values.max():.3g}"
    table.add_row(*map(rich.text.Text, (label, _estimate(name, values), extremes)))


def _estimate(name: str, values: np.ndarray) -> str:
    mean, low, high = interval(values)
    if len(values) < 2:
        return f"{mean:.3g}"
    if name == "eval/win_rate":  # the t interval knows nothing of the ends of [0, 1]
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def _short(path: str | os.PathLike[str]) -> str:
    """Relative to the working directory where that is shorter."""
    return min(os.path.relpath(path), os.fspath(path), key=len)
