"""Learning curves and summary of a run, and value tables of small games."""

import dataclasses
import io
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
_LABELS = {**_SCORES, **_DIAGNOSTICS}
_LOGARITHMIC = ("train/loss", "train/grad_norm")
_BLUE, _ORANGE, _INK, _MUTED = "#0072B2", "#D55E00", "#222222", "#666666"  # Okabe and Ito's palette


@dataclasses.dataclass(frozen=True)
class Totals:
    """Cost of a run: env steps and gradient steps of one member, and wall-clock seconds."""

    env_steps: int
    gradient_steps: int
    compile_s: float
    train_s: float
    eval_s: float


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the mean over seeds and its 95 % interval (Student's t, P - 1 degrees of freedom).

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
    """Returns one metric as a table, without env steps at which a seed has no value.

    Args:
      metrics: columns as from `storage.read_metrics`.
      name: a metric; without such a column K is 0.
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


class Figure(mpl_figure.Figure):
    """A Matplotlib figure that notebooks display without pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=75)
        return file.getvalue()


def figure(metrics: Mapping[str, np.ndarray], title: str = "", metric: str | None = None) -> Figure:
    """Draws learning curves, mean and 95 % interval over seeds: evaluation above diagnostics.

    Panels without values are left out. Loss and gradient norm have a logarithmic axis if all
    values are positive.

    Args:
      metrics: columns as from `storage.read_metrics`.
      title: the number of seeds is added.
      metric: the only column to draw.
    Raises:
      ConfigError: there is no finite value to draw.
    """
    names = [{metric: _LABELS.get(metric, metric)}] if metric else [_SCORES, _DIAGNOSTICS]
    rows = [
        [(name, label) for name, label in group.items() if series(metrics, name)[0].size]
        for group in names
    ]
    heights = [height for height, row in zip((3.6, 2.2), rows, strict=False) if row]
    rows = [row for row in rows if row]
    if not rows:
        raise config.ConfigError(_nothing_to_draw(metrics, metric))
    fig = Figure(figsize=(7 if metric else 12, sum(heights) + 0.5), layout="constrained")
    n_seeds = len(np.unique(metrics["seed"]))
    heading = " · ".join(filter(None, (title, progress.count(n_seeds, "seed"))))
    fig.suptitle(heading, x=0.012, ha="left", fontsize=14, fontweight="bold", color=_INK)
    bands = fig.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)
    for band, row in zip(bands.flat, rows, strict=True):
        panels = band.subplots(1, len(row), squeeze=False)
        for panel, (name, label) in zip(panels.flat, row, strict=True):
            _panel(panel, series(metrics, name), name, label)
    return fig


def _nothing_to_draw(metrics: Mapping[str, np.ndarray], metric: str | None) -> str:
    if metric is None:
        return (
            f"report: the metrics have no finite value of {', '.join(_LABELS)} to draw; let the "
            "run reach an evaluation"
        )
    drawable = [name for name in metrics if "/" in name and series(metrics, name)[0].size]
    return f"plot: metric={metric!r} has no finite value; {config.suggest(metric, drawable)}"


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
    """Returns limits from the seeds' values: intervals of few seeds would dwarf the curves."""
    if name == "eval/win_rate":
        return -0.03, 1.03
    low, high = float(values.min()), float(values.max())
    if scale == "log":
        margin = max((high / low) ** 0.08, 1.05)
        return low / margin, high * margin
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def steps_axis(panel: mpl_axes.Axes, size: int) -> None:
    """Formats a horizontal axis of env steps; `size` is the font size in points."""
    panel.set_xlabel("env steps", fontsize=size, color=_MUTED)
    panel.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: progress.human(x)))
    panel.xaxis.set_major_locator(ticker.MaxNLocator(6 if size > 10 else 4))


def style(panel: mpl_axes.Axes, size: int) -> None:
    """Applies the style shared by all panels; `size` is the font size in points."""
    panel.tick_params(which="both", labelsize=size - 1, colors=_MUTED, length=3)
    panel.grid(True, color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color("#aaaaaa")


def summary(
    metrics: Mapping[str, np.ndarray],
    totals: Totals,
    files: Sequence[str | os.PathLike[str]] = (),
    remarks: Sequence[str] = (),
    console: rich.console.Console | None = None,
) -> None:
    """Prints the scores of a run, its cost and its files.

    Args:
      metrics: columns as from `storage.read_metrics`.
      totals: the cost.
      files: paths to list, relative to the working directory where shorter.
      remarks: lines to print first.
      console: where to print; by default standard output.
    """
    n_seeds = len(np.unique(metrics["seed"]))
    table = _score_table("Result", "greedy evaluation")
    for name, label in reversed(_SCORES.items()):
        steps, values = series(metrics, name)
        if values.size:
            label = label.removeprefix("Greedy ")
            complete = steps[-1] >= totals.env_steps
            when = "final" if complete else f"after {progress.human(steps[-1])} env steps"
            _score_row(table, f"{label}, {when}", name, values[:, -1])
            _score_row(table, f"{label}, each seed's best", name, values.max(axis=1))
    rate = totals.env_steps * n_seeds / totals.train_s if totals.train_s > 0 else math.nan
    seconds = totals.compile_s + totals.train_s + totals.eval_s
    lines = (
        ("steps", f"{totals.env_steps:,} env steps, {totals.gradient_steps:,} gradient steps"),
        ("speed", f"{progress.human(rate)} env steps/s over {n_seeds} seed(s), training alone"),
        (
            "time",
            f"{progress.duration(seconds)} = compile {totals.compile_s:.1f} s"
            f" + train {totals.train_s:.1f} s + evaluate {totals.eval_s:.1f} s",
        ),
        *(("file", min(os.path.relpath(path), os.fspath(path), key=len)) for path in files),
    )
    with progress.output(console) as out:
        for remark in remarks:
            out.print(rich.text.Text(remark), soft_wrap=True)
        if table.row_count:
            out.print(table)
        for label, text in lines:
            out.print(rich.text.Text(f"  {label:<6} {text}"), soft_wrap=True)


def scores(
    title: str,
    metrics: Mapping[str, np.ndarray],
    console: rich.console.Console | None = None,
) -> None:
    """Prints mean, 95 % interval and range over seeds of the metrics of one evaluation.

    Args:
      title: of the table.
      metrics: name without `eval/`, for example `return` -> f[P].
      console: where to print; by default standard output.
    """
    table = _score_table(None, "evaluation")
    for name, values in metrics.items():
        _score_row(table, name, f"eval/{name}", values)
    with progress.output(console) as out:
        out.print(rich.text.Text(title, style="bold"), table, sep="\n")


def joint_tables(
    points: Sequence[base.DecisionPoint],
    learned: Sequence[np.ndarray],
    console: rich.console.Console | None = None,
) -> None:
    """Prints learned and exact joint values of a two-agent game, the greedy cell in bold.

    Args:
      points: decision points of the environment.
      learned: for each point f32[P, A, A], joint values; rows are agent 1, columns agent 2.
      console: where to print; by default standard output.
    Raises:
      ValueError: the game does not have two agents, or there are not as many tables as points.
    """
    for point, values in zip(points, learned, strict=True):
        exact = {name: table for name, table in point.exact.items() if name != "independent"}
        title = f"{point.name} (rows: agent 1, columns: agent 2)"
        _compare(title, values, {"optimal": point.optimal, **exact}, console)


def utility_tables(
    points: Sequence[base.DecisionPoint],
    learned: Sequence[np.ndarray],
    console: rich.console.Console | None = None,
) -> None:
    """Prints learned utilities and the exact ones of independent learners.

    Args:
      points: decision points of the environment, with `exact["independent"]` f32[N, A] if known.
      learned: for each point f32[P, N, A]; rows are agents, columns actions.
      console: where to print; by default standard output.
    Raises:
      ValueError: there are not as many tables as points.
    """
    for point, values in zip(points, learned, strict=True):
        exact = {name: table for name, table in point.exact.items() if name == "independent"}
        _compare(point.name, values, exact, console, rows_are_agents=True)


def _compare(
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
    tables = [_value_table(name, learned.mean(axis=0), std, rows_are_agents)]
    rows, columns = learned.shape[1:]
    for key, values in exact.items():
        tables.append(_value_table(key, np.asarray(values)[:rows, :columns], None, rows_are_agents))
    with progress.output(console) as out:
        out.print(rich.text.Text(f"{title}, {progress.count(n_seeds, 'seed')}", style="bold"))
        out.print(rich.columns.Columns(tables, padding=(0, 1)))


def _value_table(
    title: str, mean: np.ndarray, std: np.ndarray | None, rows_are_agents: bool
) -> rich.table.Table:
    """A table of values; the best cell, or the best of each agent's row, is bold."""
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
        styles = ["bold" if is_best else "" for is_best in best[row]]
        table.add_row(*head, *map(rich.text.Text, cells, styles))
    return table


def _cell(mean: float, std: float | None) -> str:
    if np.isnan(mean):  # the agent lacks this action
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
    if name == "eval/win_rate":  # the t interval can exceed [0, 1]
        low, high = max(low, 0.0), min(high, 1.0)
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]"
