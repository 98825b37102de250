"""What a report says in numbers: rankings, improvement, profiles, curves and costs."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qmix_jax.reports import collect, statistics, study
from qmix_jax.runs import scores

_SEED = 0
"""Of every bootstrap: the same runs give the same report."""
_ALL = "all tasks"
_UNITS = {"eval/win_rate": "win rate", "eval/return": "return"}


@dataclasses.dataclass(frozen=True)
class Options:
    """How a report is made.

    Attributes:
      last: a seed's score is its mean over so many of its last evaluations.
      resamples: bootstrap draws.
      drawn: the most settings in a figure, the best ones.
    """

    last: int = scores.LAST
    resamples: int = 2_000
    drawn: int = 10


@dataclasses.dataclass(frozen=True)
class Cost:
    """What runs took: medians over runs.

    Attributes:
      wall_s: seconds of compiling, training and evaluating.
      steps_per_s: env steps per second of all members that trained together.
      members: how many these were.
      shared: whether members of other runs were among them.
    """

    wall_s: float
    steps_per_s: float
    members: int
    shared: bool


@dataclasses.dataclass(frozen=True)
class RankingRow:
    """One setting in a ranking.

    Attributes:
      label: the setting.
      scores: per task f64[S], one number per seed.
      iqm: its interquartile mean.
      env_steps: where the curves end, the least over tasks.
      cost: None in a ranking over several tasks.
    """

    label: str
    scores: tuple[np.ndarray, ...]
    iqm: statistics.Estimate
    env_steps: int
    cost: Cost | None

    @property
    def seeds(self) -> int:
        """Runs in all tasks."""
        return sum(map(len, self.scores))


@dataclasses.dataclass(frozen=True)
class View:
    """Settings compared on one task, or on all of them together.

    Attributes:
      title: the task.
      unit: what the scores are.
      bounded: whether scores lie in [0, 1].
      rows: the best setting first.
    """

    title: str
    unit: str
    bounded: bool
    rows: tuple[RankingRow, ...]


def views(found: study.Study, options: Options) -> tuple[View, ...]:
    """A view per task; and one over all tasks if there are several and every setting has each.

    Over all tasks win rates are taken as they are. Returns are normalised per task: 0 is the
    lowest and 1 the highest evaluation of any seed of any setting at any time.
    """
    result = []
    for task in found.tasks:
        rows = [
            _row(label, (_final(cell, task, options),), (cell,), options)
            for label, cell in task.cells.items()
        ]
        bounded = task.metric == "eval/win_rate"
        result.append(View(task.name, _UNITS[task.metric], bounded, _ranked(rows)))
    complete = all(found.settings.keys() == task.cells.keys() for task in found.tasks)
    if len(found.tasks) > 1 and complete:
        result.append(_over_tasks(found, options))
    return tuple(result)


def order(found: Sequence[View]) -> tuple[str, ...]:
    """All settings, the best first: by the view over all tasks, or by the mean rank."""
    ranks: dict[str, list[int]] = {}
    for view in found[-1:] if found[-1].title == _ALL else found:
        for rank, row in enumerate(view.rows):
            ranks.setdefault(row.label, []).append(rank)
    return tuple(sorted(ranks, key=lambda label: (np.mean(ranks[label]), label)))


def improvement(x: RankingRow, y: RankingRow, options: Options) -> statistics.Estimate:
    """Probability that a run of one setting scores higher than a run of another."""
    return statistics.improvement(x.scores, y.scores, options.resamples, _rng())


def profile(
    view: View, row: RankingRow, options: Options
) -> tuple[np.ndarray, statistics.Estimate]:
    """Thresholds, the same for all rows of a view, and the share of runs above each."""
    values = np.concatenate([values for other in view.rows for values in other.scores])
    margin = 0.03 * np.ptp(values) or (0.05 if view.bounded else 0.5)
    taus = np.linspace(values.min() - margin, values.max() + margin, 201)
    return taus, statistics.profile(row.scores, taus, options.resamples, _rng())


def pooled(rows: Sequence[RankingRow], options: Options) -> statistics.Estimate:
    """Interquartile mean over the runs of several settings, resampled within each."""
    strata = [values for row in rows for values in row.scores]
    return statistics.iqm_estimate(strata, options.resamples, _rng())


def curve(task: study.Task, label: str, options: Options) -> statistics.Estimate:
    """Interquartile mean over seeds at each evaluation of a setting, f64[K] each."""
    values = task.cells[label].values[task.metric]
    return statistics.iqm_estimate([values], options.resamples, _rng())


def cost(runs: Sequence[collect.RunDirectory]) -> Cost:
    """What runs of one setting took."""
    walls, speeds, members, shared = [], [], [1], False
    for run in runs:
        walls.append(_wall(run))
        speed = run.metrics.get("perf/env_steps_per_s", np.array([]))
        speeds.extend([np.median(speed[np.isfinite(speed)])] if np.isfinite(speed).any() else [])
        together = collect.lookup(run.manifest, "population", "members") or 1
        members.append(together)
        shared |= together > len(np.unique(run.metrics["seed"]))
    speed = float(np.median(speeds)) if speeds else math.nan
    return Cost(float(np.median(walls)), speed, max(members), shared)


def as_mapping(found: study.Study, seen: Sequence[View], options: Options) -> dict[str, Any]:
    """Everything as nested mappings and lists, for `statistics.json`.

    Improvement is left to the settings that figures show.
    """
    drawn = order(seen)[: options.drawn]
    return {
        "options": {**dataclasses.asdict(options), "confidence": statistics.CONFIDENCE,
                    "bootstrap_seed": _SEED},
        "settings": found.settings,
        "views": [_view_mapping(view, drawn, options) for view in seen],
        "curves": {
            task.name: {
                label: {
                    "env_steps": cell.steps.astype(int),
                    "metric": task.metric,
                    "seeds": cell.seeds,
                    "runs": [str(run.path) for run in cell.runs],
                    "iqm": curve(task, label, options)._asdict(),
                }
                for label, cell in task.cells.items()
            }
            for task in found.tasks
        },
        "warnings": found.warnings,
    }  # fmt: skip


def _view_mapping(view: View, drawn: Sequence[str], options: Options) -> dict[str, Any]:
    rows = [row for row in view.rows if row.label in drawn]
    profiles = {row.label: profile(view, row, options) for row in rows}
    return {
        "title": view.title,
        "unit": view.unit,
        "ranking": [
            {
                "setting": row.label,
                "scores": row.scores,
                "iqm": row.iqm._asdict(),
                "mean": np.concatenate(row.scores).mean(),
                "median": np.median(np.concatenate(row.scores)),
                "env_steps": row.env_steps,
                **(dataclasses.asdict(row.cost) if row.cost else {}),
            }
            for row in view.rows
        ],
        "improvement": [
            {"x": x.label, "y": y.label, **improvement(x, y, options)._asdict()}
            for x in rows
            for y in rows
            if x is not y
        ],
        "profile": {
            label: {"threshold": taus, **share._asdict()}
            for label, (taus, share) in profiles.items()
        },
    }


def _over_tasks(found: study.Study, options: Options) -> View:
    rows = []
    for label in found.settings:
        cells = tuple(task.cells[label] for task in found.tasks)
        normal = tuple(
            _normalised(_final(cell, task, options), task)
            for cell, task in zip(cells, found.tasks, strict=True)
        )
        rows.append(_row(label, normal, cells, options))
    returns = any(task.metric != "eval/win_rate" for task in found.tasks)
    unit = "score, returns normalised per task" if returns else "win rate"
    return View(_ALL, unit, True, _ranked(rows))


def _normalised(values: np.ndarray, task: study.Task) -> np.ndarray:
    if task.metric == "eval/win_rate":
        return values
    seen = np.concatenate([cell.values[task.metric].ravel() for cell in task.cells.values()])
    return (values - seen.min()) / (np.ptp(seen) or 1.0)


def _row(
    label: str,
    values: tuple[np.ndarray, ...],
    cells: tuple[study.SettingResult, ...],
    options: Options,
) -> RankingRow:
    return RankingRow(
        label=label,
        scores=values,
        iqm=statistics.iqm_estimate(values, options.resamples, _rng()),
        env_steps=min(int(cell.steps[-1]) for cell in cells),
        cost=cost(cells[0].runs) if len(cells) == 1 else None,
    )


def _final(cell: study.SettingResult, task: study.Task, options: Options) -> np.ndarray:
    return scores.final(cell.values[task.metric], options.last)


def _ranked(rows: Sequence[RankingRow]) -> tuple[RankingRow, ...]:
    """By interquartile mean, then by mean, then by name."""
    return tuple(
        sorted(
            rows,
            key=lambda row: (-float(row.iqm.value), -np.concatenate(row.scores).mean(), row.label),
        )
    )


def _wall(run: collect.RunDirectory) -> float:
    """Seconds that a run has taken, as far as its files say."""
    compiled = collect.lookup(run.manifest, "compile_s", "total") or 0.0
    reached = [collect.lookup(run.manifest, "reached", name) for name in ("train_s", "eval_s")]
    if all(isinstance(seconds, int | float) for seconds in reached):
        return float(compiled + sum(reached))
    elapsed = run.metrics.get("time_s", np.array([]))
    return float(compiled + np.max(elapsed, initial=0.0, where=np.isfinite(elapsed)))


def _rng() -> np.random.Generator:
    return np.random.default_rng(_SEED)
