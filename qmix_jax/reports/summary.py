"""The statistics of a report: rankings, improvement, profiles, curves and costs."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from qmix_jax.reports import collect, statistics, study
from qmix_jax.runs import scores

_SEED = 0
"""Seed of every bootstrap, so that the same runs give the same report."""
_ALL = "all tasks"
_UNITS = {"eval/win_rate": "win rate", "eval/return": "return"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of a report.

    Attributes:
      last: a seed's score is its mean over this many of its last evaluations.
      resamples: bootstrap samples.
      top: number of settings in a figure, the best ones.
    """

    last: int = scores.LAST
    resamples: int = 2_000
    top: int = 10


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of runs: medians over runs.

    Attributes:
      wall_s: seconds of compiling, training and evaluating.
      steps_per_s: env steps per second of all members that trained together.
      members: number of these members.
      shared: whether some of them belong to other runs.
    """

    wall_s: float
    steps_per_s: float
    members: int
    shared: bool


@dataclasses.dataclass(frozen=True)
class RankingRow:
    """One setting in a ranking.

    Attributes:
      setting: its label: the keys in which settings differ, with their values.
      scores: per task f64[S], one score per seed.
      iqm: their interquartile mean, with its 95 % interval.
      env_steps: of the last evaluation, the least over tasks.
      cost: None in a ranking over several tasks.
    """

    setting: str
    scores: tuple[np.ndarray, ...]
    iqm: statistics.Estimate
    env_steps: int
    cost: Cost | None

    @property
    def seeds(self) -> int:
        """Runs in all tasks."""
        return sum(map(len, self.scores))

    @property
    def pooled_scores(self) -> np.ndarray:
        """f64[S], of all tasks."""
        return np.concatenate(self.scores)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Settings compared on one task, or on all tasks together.

    Attributes:
      title: the task.
      unit: of the scores.
      bounded: whether scores lie in [0, 1].
      rows: the best setting first.
    """

    title: str
    unit: str
    bounded: bool
    rows: tuple[RankingRow, ...]


def rankings(data: study.Study, options: Options) -> tuple[Ranking, ...]:
    """Returns a ranking per task, and one over all tasks if each of several has every setting.

    Over all tasks, win rates are used unchanged and returns are normalised per task: 0 is the
    lowest and 1 the highest evaluation of any seed of any setting at any time.
    """
    per_task = []
    for task in data.tasks:
        rows = [
            _row(label, (scores.final(result.values[task.metric], options.last),), [result],
                 options)
            for label, result in task.results.items()
        ]  # fmt: skip
        bounded = task.metric == "eval/win_rate"
        per_task.append(Ranking(task.name, _UNITS[task.metric], bounded, _ranked(rows)))
    complete = all(data.settings.keys() == task.results.keys() for task in data.tasks)
    over_tasks = [_over_tasks(data, options)] if len(data.tasks) > 1 and complete else []
    return (*per_task, *over_tasks)


def order(rankings: Sequence[Ranking]) -> tuple[str, ...]:
    """Returns all settings, the best first: by the ranking over all tasks, else by mean rank."""
    ranks: dict[str, list[int]] = {}
    for ranking in rankings[-1:] if rankings[-1].title == _ALL else rankings:
        for rank, row in enumerate(ranking.rows):
            ranks.setdefault(row.setting, []).append(rank)
    return tuple(sorted(ranks, key=lambda label: (np.mean(ranks[label]), label)))


def improvement(x: RankingRow, y: RankingRow, options: Options) -> statistics.Estimate:
    """Estimates the probability that a run of one setting scores higher than one of another."""
    return statistics.improvement(x.scores, y.scores, options.resamples, _rng())


def profile(
    ranking: Ranking, row: RankingRow, options: Options
) -> tuple[np.ndarray, statistics.Estimate]:
    """Returns thresholds, the same for all rows of a ranking, and the share of runs above each."""
    values = np.concatenate([other.pooled_scores for other in ranking.rows])
    margin = 0.03 * np.ptp(values) or (0.05 if ranking.bounded else 0.5)
    taus = np.linspace(values.min() - margin, values.max() + margin, 201)
    return taus, statistics.profile(row.scores, taus, options.resamples, _rng())


def pooled(rows: Sequence[RankingRow], options: Options) -> statistics.Estimate:
    """Estimates the interquartile mean over runs of several settings, resampled within each."""
    return _iqm([values for row in rows for values in row.scores], options)


def curve(task: study.Task, label: str, options: Options) -> statistics.Estimate:
    """Estimates the interquartile mean over seeds at each evaluation of a setting, f64[K] each."""
    return _iqm([task.results[label].values[task.metric]], options)


def cost(runs: Sequence[collect.RunDirectory]) -> Cost:
    """Returns the cost of the runs of one setting."""
    speeds, members, shared = [], [1], False
    for run in runs:
        speed = run.metrics.get("perf/env_steps_per_s", np.array([]))
        speeds.extend([np.median(speed[np.isfinite(speed)])] if np.isfinite(speed).any() else [])
        together = collect.lookup(run.manifest, "population", "members") or 1
        members.append(together)
        shared |= together > len(np.unique(run.metrics["seed"]))
    return Cost(
        wall_s=float(np.median([_wall_seconds(run) for run in runs])),
        steps_per_s=float(np.median(speeds)) if speeds else math.nan,
        members=max(members),
        shared=shared,
    )


def as_mapping(data: study.Study, rankings: Sequence[Ranking], options: Options) -> dict[str, Any]:
    """Returns the content of `statistics.json`; improvement and profiles of top settings only."""
    top = order(rankings)[: options.top]
    return {
        "options": {**dataclasses.asdict(options), "confidence": statistics.CONFIDENCE,
                    "bootstrap_seed": _SEED},
        "settings": data.settings,
        "views": [_ranking_mapping(ranking, top, options) for ranking in rankings],
        "curves": {
            task.name: {
                label: {
                    "env_steps": result.steps.astype(int),
                    "metric": task.metric,
                    "seeds": result.seeds,
                    "runs": [str(run.path) for run in result.runs],
                    "iqm": curve(task, label, options)._asdict(),
                }
                for label, result in task.results.items()
            }
            for task in data.tasks
        },
        "warnings": data.warnings,
    }  # fmt: skip


def _ranking_mapping(ranking: Ranking, top: Sequence[str], options: Options) -> dict[str, Any]:
    rows = [row for row in ranking.rows if row.setting in top]
    profiles = {row.setting: profile(ranking, row, options) for row in rows}
    return {
        "title": ranking.title,
        "unit": ranking.unit,
        "ranking": [
            {
                "setting": row.setting,
                "scores": row.scores,
                "iqm": row.iqm._asdict(),
                "mean": row.pooled_scores.mean(),
                "median": np.median(row.pooled_scores),
                "env_steps": row.env_steps,
                **(dataclasses.asdict(row.cost) if row.cost else {}),
            }
            for row in ranking.rows
        ],
        "improvement": [
            {"x": x.setting, "y": y.setting, **improvement(x, y, options)._asdict()}
            for x in rows
            for y in rows
            if x is not y
        ],
        "profile": {
            label: {"threshold": taus, **share._asdict()}
            for label, (taus, share) in profiles.items()
        },
    }


def _over_tasks(data: study.Study, options: Options) -> Ranking:
    rows = []
    for label in data.settings:
        results = [task.results[label] for task in data.tasks]
        values = tuple(
            _normalised(scores.final(result.values[task.metric], options.last), task)
            for result, task in zip(results, data.tasks, strict=True)
        )
        rows.append(_row(label, values, results, options))
    returns = any(task.metric != "eval/win_rate" for task in data.tasks)
    unit = "score, returns normalised per task" if returns else "win rate"
    return Ranking(_ALL, unit, True, _ranked(rows))


def _normalised(values: np.ndarray, task: study.Task) -> np.ndarray:
    if task.metric == "eval/win_rate":
        return values
    every = np.concatenate([r.values[task.metric].ravel() for r in task.results.values()])
    return (values - every.min()) / (np.ptp(every) or 1.0)


def _row(
    label: str,
    values: tuple[np.ndarray, ...],
    results: Sequence[study.SettingResult],
    options: Options,
) -> RankingRow:
    return RankingRow(
        setting=label,
        scores=values,
        iqm=_iqm(values, options),
        env_steps=min(int(result.steps[-1]) for result in results),
        cost=cost(results[0].runs) if len(results) == 1 else None,
    )


def _ranked(rows: Sequence[RankingRow]) -> tuple[RankingRow, ...]:
    """Sorts rows by interquartile mean, then by mean, then by name."""
    return tuple(
        sorted(rows, key=lambda x: (-float(x.iqm.value), -x.pooled_scores.mean(), x.setting))
    )


def _wall_seconds(run: collect.RunDirectory) -> float:
    """Returns the seconds that a run has taken so far, according to its files."""
    compiled = collect.lookup(run.manifest, "compile_s", "total") or 0.0
    phases = [collect.lookup(run.manifest, "reached", name) for name in ("train_s", "eval_s")]
    if all(isinstance(seconds, int | float) for seconds in phases):
        return float(compiled + sum(phases))
    elapsed = run.metrics.get("time_s", np.array([]))
    return float(compiled + np.max(elapsed, initial=0.0, where=np.isfinite(elapsed)))


def _iqm(strata: Sequence[np.ndarray], options: Options) -> statistics.Estimate:
    return statistics.iqm_estimate(strata, options.resamples, _rng())


def _rng() -> np.random.Generator:
    return np.random.default_rng(_SEED)
