"""Groups runs into tasks and settings, and pools the seeds of each setting.

A *task* is an environment, by the name that its adapter gives it. A *setting* is a configuration
without `seed`, `seeds`, `name`, `logger` and the keys that differ between tasks only; the runs of
a setting are pooled.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qmix_jax.console import learning_curves
from qmix_jax.reports import collect
from qmix_jax.runs import scores

_NOT_COMPARED = ("seed", "seeds", "name", "logger")
_NAME_KEYS = {
    "env.": "env.name",
    "agent.": "agent.name",
    "algo.": "algo.name",
    "hparams.algo.": "algo.name",
}
"""Prefix -> name of a component: labels leave out keys with the prefix if the name implies them."""


@dataclasses.dataclass(frozen=True)
class SettingResult:
    """One setting on one task.

    Attributes:
      steps: f64[K], env steps of the evaluations.
      seeds: of the S rows, increasing.
      values: metric -> f64[S, K], by seed and evaluation; the task's metric first.
      runs: the runs that were pooled.
    """

    steps: np.ndarray
    seeds: tuple[int, ...]
    values: Mapping[str, np.ndarray]
    runs: tuple[collect.RunDirectory, ...]


@dataclasses.dataclass(frozen=True)
class Task:
    """An environment and its results.

    Attributes:
      name: of the environment.
      metric: by which settings are compared, a column of `metrics.csv`.
      results: label of each setting that was run on the task -> its evaluations.
    """

    name: str
    metric: str
    results: Mapping[str, SettingResult]


@dataclasses.dataclass(frozen=True)
class Study:
    """The data of a report.

    Attributes:
      tasks: in the order of the runs.
      settings: label -> the swept keys of the setting, with their values as text.
      keys: dotted keys in which settings differ.
      task_keys: dotted keys that differ between tasks only.
      warnings: one line each.
    """

    tasks: tuple[Task, ...]
    settings: Mapping[str, Mapping[str, str]]
    keys: tuple[str, ...]
    task_keys: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def runs(self) -> tuple[collect.RunDirectory, ...]:
        """All runs that were pooled."""
        results = (result for task in self.tasks for result in task.results.values())
        return tuple(run for result in results for run in result.runs)

    def values(self, key: str) -> list[str]:
        """Returns the distinct values of a swept key, in the order of the settings."""
        return list(dict.fromkeys(s[key] for s in self.settings.values() if key in s))


def build(runs: Sequence[collect.RunDirectory], warnings: Sequence[str] = ()) -> Study:
    """Sorts runs into tasks and settings.

    Args:
      runs: as from `collect.collect`, each with at least one evaluation.
      warnings: printed before the study's.
    """
    by_task = {
        task: [i for i, run in enumerate(runs) if run.task == task]
        for task in dict.fromkeys(run.task for run in runs)
    }
    flats = [flatten(run.config) for run in runs]
    varying = _varying(flats)
    within = {key for js in by_task.values() for key in _varying([flats[i] for i in js])}
    keys = _not_implied([key for key in varying if key in within], flats)
    values = [{key: flat[key] for key in keys if key in flat} for flat in flats]
    labels = [_label(setting, keys, run) for setting, run in zip(values, runs, strict=True)]
    notes = [*warnings, *_version_warnings(runs), *(note for run in runs for note in _notes(run))]
    tasks = []
    for task, indices in by_task.items():
        metric = _metric([runs[i] for i in indices])
        results = {
            label: _pool(label, metric, [runs[i] for i in indices if labels[i] == label], notes)
            for label in dict.fromkeys(labels[i] for i in indices)
        }
        tasks.append(Task(task, metric, results))
    return Study(
        tasks=tuple(tasks),
        settings=dict(zip(labels, values, strict=True)),
        keys=tuple(keys),
        task_keys=tuple(key for key in varying if key not in within),
        warnings=tuple(notes),
    )


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns dotted keys -> values as text, without the keys that are not compared.

    A schedule is one value: `0.001` if it is constant, else `0.002 to 0.0005 in 20000`.
    """
    flat = {}
    for key, value in mapping.items():
        if not prefix and key in _NOT_COMPARED:
            continue
        if isinstance(value, Mapping) and value and set(value) != {"start", "end", "steps"}:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _text(value)
    return flat


def _text(value: Any) -> str:
    if isinstance(value, Mapping) and value:  # a schedule
        start, end, steps = (_text(value[name]) for name in ("start", "end", "steps"))
        return start if start == end else f"{start} to {end} in {steps}"
    if isinstance(value, str):
        return value
    return f"{value:.12g}" if isinstance(value, float) else json.dumps(value, default=str)


def _varying(flats: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns keys in which the configurations differ; a missing key is a difference."""
    keys = dict.fromkeys(key for flat in flats for key in flat)
    return [key for key in keys if len({flat.get(key) for flat in flats}) > 1]


def _not_implied(keys: list[str], flats: Sequence[Mapping[str, str]]) -> list[str]:
    """Drops keys that a component's name implies, as `algo.name` implies `algo.mixer.name`."""

    def implied(key: str) -> bool:
        names = [n for prefix, n in _NAME_KEYS.items() if f"{key}.".startswith(prefix) and key != n]
        pairs = {(flat.get(name), flat.get(key)) for name in names for flat in flats}
        return bool(names) and names[0] in keys and len(pairs) == len({name for name, _ in pairs})

    return [key for key in keys if not implied(key)]


def _label(values: Mapping[str, str], keys: Sequence[str], run: collect.RunDirectory) -> str:
    if not keys:
        return str(collect.lookup(run.config, "algo", "name") or "all runs")
    return ", ".join(f"{key}={value}" for key, value in values.items()) or f"no {', '.join(keys)}"


def _notes(run: collect.RunDirectory) -> list[str]:
    wanted, seeds = collect.lookup(run.config, "seeds"), len(np.unique(run.metrics["seed"]))
    missing = isinstance(wanted, int) and seeds < wanted
    notes = (run.unfinished, run.failure, f"{seeds} of {wanted} seeds so far" if missing else "")
    return [f"{run.path}: {note}" for note in notes if note]


def _version_warnings(runs: Sequence[collect.RunDirectory]) -> list[str]:
    commits = [collect.lookup(run.manifest, "git", "commit") for run in runs]
    versions = [collect.lookup(run.manifest, "versions", "qmix_jax") for run in runs]
    distinct = dict.fromkeys(zip(versions, commits, strict=True))
    if len(distinct) < 2:
        return []
    names = ", ".join(f"{version} ({str(commit)[:10]})" for version, commit in distinct)
    return [f"the runs come from {len(distinct)} versions of qmix_jax: {names}"]


def _metric(runs: Sequence[collect.RunDirectory]) -> str:
    """Returns the first metric that every run of a task has, or else the last one."""
    for name in scores.METRICS:
        if all(learning_curves.series(run.metrics, name)[0].size for run in runs):
            return name
    return scores.METRICS[-1]


def _pool(
    label: str, metric: str, runs: Sequence[collect.RunDirectory], notes: list[str]
) -> SettingResult:
    """Pools the runs of a setting that were evaluated as often as the longest of them."""
    ordered = sorted(runs, key=lambda run: str(run.manifest.get("started", "")))  # ISO 8601
    steps_of = {run.path: learning_curves.series(run.metrics, metric)[0] for run in ordered}
    steps = max(steps_of.values(), key=lambda steps: steps[-1:].sum())
    rows: dict[int, tuple[collect.RunDirectory, Mapping[str, np.ndarray]]] = {}
    for run in ordered:
        table = _table(run, metric, steps)
        if table is None:
            notes.append(
                f"{run.path}: skipped, it has {len(steps_of[run.path])} of the {len(steps)} "
                f"evaluations of other runs of its setting ({label})"
            )
            continue
        repeated = sorted(rows.keys() & table.keys())
        if repeated:
            older = ", ".join(dict.fromkeys(str(rows[seed][0].path) for seed in repeated))
            notes.append(
                f"{run.path}: seed {', '.join(map(str, repeated))} of this setting is also in "
                f"{older}; only this one, the newest, counts ({label})"
            )
        rows |= {seed: (run, values) for seed, values in table.items()}
    seeds = sorted(rows)
    shared = [name for name in scores.METRICS if all(name in rows[seed][1] for seed in seeds)]
    names = [metric, *(name for name in shared if name != metric)]
    values = {name: np.stack([rows[seed][1][name] for seed in seeds]) for name in names}
    pooled = {id(run): run for run, _ in rows.values()}
    return SettingResult(steps, tuple(seeds), values, tuple(pooled.values()))


def _table(
    run: collect.RunDirectory, metric: str, steps: np.ndarray
) -> dict[int, dict[str, np.ndarray]] | None:
    """Returns seed -> metric -> values at the steps; None if the run has not reached the last one.

    If all members of a run were frozen, the run ended early. Its last evaluation stands for the
    missing ones, as for a member that is frozen while others continue: skipping such a run would
    flatter the setting.
    """
    table: dict[int, dict[str, np.ndarray]] = {}
    seeds = [int(seed) for seed in np.unique(run.metrics["seed"])]
    for name in scores.METRICS:
        evaluated, values = learning_curves.series(run.metrics, name)
        if run.failure and not run.unfinished and evaluated.size:
            at = np.clip(np.searchsorted(evaluated, steps, side="right") - 1, 0, None)
            evaluated, values = steps, values[:, at]
        rows = zip(seeds, values, strict=True) if np.array_equal(evaluated, steps) else ()
        for seed, row in rows:
            table.setdefault(seed, {})[name] = row
    return table if table and all(metric in row for row in table.values()) else None
