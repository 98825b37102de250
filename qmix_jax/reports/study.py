"""Groups runs into tasks and settings: what is compared, and with which seeds.

A *task* is an environment as its adapter names it. A *setting* is a configuration without `seed`,
`seeds`, `name`, `logger` and whatever differs between tasks only; its runs are pooled.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qmix_jax.console import learning_curves
from qmix_jax.reports import collect
from qmix_jax.runs import scores

_NO_SETTING = ("seed", "seeds", "name", "logger")
_CHOICES = {
    "env.": "env.name",
    "agent.": "agent.name",
    "algo.": "algo.name",
    "hparams.algo.": "algo.name",
}
"""Keys with such a beginning are left out of labels where that name alone settles them."""


@dataclasses.dataclass(frozen=True)
class SettingResult:
    """One setting on one task.

    Attributes:
      steps: f64[K], env steps of the evaluations.
      seeds: of the S rows, increasing.
      values: metric -> f64[S, K], by seed and evaluation; the task's own metric first.
      runs: where they come from.
    """

    steps: np.ndarray
    seeds: tuple[int, ...]
    values: Mapping[str, np.ndarray]
    runs: tuple[collect.RunDirectory, ...]


@dataclasses.dataclass(frozen=True)
class Task:
    """An environment and what was run on it.

    Attributes:
      name: as the adapter names it.
      metric: what settings are compared by, a column of `metrics.csv`.
      cells: label of each setting that was run here -> its evaluations.
    """

    name: str
    metric: str
    cells: Mapping[str, SettingResult]


@dataclasses.dataclass(frozen=True)
class Study:
    """Everything that a report is made from.

    Attributes:
      tasks: in the order in which they were found.
      settings: label -> the swept keys that the setting has, and their values as text.
      keys: dotted keys in which settings differ.
      task_keys: dotted keys that differ between tasks only.
      warnings: what is odd about the runs, a line each.
    """

    tasks: tuple[Task, ...]
    settings: Mapping[str, Mapping[str, str]]
    keys: tuple[str, ...]
    task_keys: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def runs(self) -> tuple[collect.RunDirectory, ...]:
        """All runs that count."""
        return tuple(run for task in self.tasks for c in task.cells.values() for run in c.runs)


def build(runs: Sequence[collect.RunDirectory], warnings: Sequence[str] = ()) -> Study:
    """Sorts runs into tasks and settings.

    Args:
      runs: as from `collect.collect`, each with at least one evaluation.
      warnings: lines to begin the study's own with.
    """
    tasks = dict.fromkeys(run.task for run in runs)
    flats = [flatten(run.config) for run in runs]
    varying = _varying(flats)
    members = {name: [i for i, run in enumerate(runs) if run.task == name] for name in tasks}
    within = {key for own in members.values() for key in _varying([flats[i] for i in own])}
    keys = _independent([key for key in varying if key in within], flats)
    values = [{key: flat[key] for key in keys if key in flat} for flat in flats]
    labels = [_label(own, keys, run) for own, run in zip(values, runs, strict=True)]
    notes = [*warnings, *_versions(runs), *(note for run in runs for note in _notes(run))]
    found = []
    for name, own in members.items():
        groups = {labels[i]: [runs[j] for j in own if labels[j] == labels[i]] for i in own}
        metric = _metric([runs[i] for i in own])
        cells = {label: _cell(label, metric, group, notes) for label, group in groups.items()}
        found.append(Task(name, metric, cells))
    return Study(
        tasks=tuple(found),
        settings=dict(zip(labels, values, strict=True)),
        keys=tuple(keys),
        task_keys=tuple(key for key in varying if key not in within),
        warnings=tuple(notes),
    )


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted keys -> values as text, without those that make no setting.

    A schedule is one value: `0.001` where it is constant, else `0.002 to 0.0005 in 20000`.
    """
    flat = {}
    for key, value in mapping.items():
        if not prefix and key in _NO_SETTING:
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
    """Keys in which the configurations differ, a missing one being a difference."""
    keys = dict.fromkeys(key for flat in flats for key in flat)
    return [key for key in keys if len({flat.get(key) for flat in flats}) > 1]


def _independent(keys: list[str], flats: Sequence[Mapping[str, str]]) -> list[str]:
    """Without the keys of a component that its name settles: `algo.mixer.name` by `algo.name`."""

    def settled(key: str) -> bool:
        names = [
            name for start, name in _CHOICES.items() if f"{key}.".startswith(start) and key != name
        ]
        pairs = {(flat.get(name), flat.get(key)) for name in names for flat in flats}
        return bool(names) and names[0] in keys and len(pairs) == len({name for name, _ in pairs})

    return [key for key in keys if not settled(key)]


def _label(values: Mapping[str, str], keys: Sequence[str], run: collect.RunDirectory) -> str:
    if not keys:
        return str(collect.lookup(run.config, "algo", "name") or "all runs")
    return ", ".join(f"{key}={value}" for key, value in values.items()) or f"no {', '.join(keys)}"


def _notes(run: collect.RunDirectory) -> list[str]:
    notes = []
    if run.unfinished:
        notes.append(f"{run.path}: {run.unfinished}")
    if run.failure:
        notes.append(f"{run.path}: {run.failure}")
    wanted, seeds = collect.lookup(run.config, "seeds"), len(np.unique(run.metrics["seed"]))
    if isinstance(wanted, int) and seeds < wanted:
        notes.append(f"{run.path}: {seeds} of {wanted} seeds so far")
    return notes


def _versions(runs: Sequence[collect.RunDirectory]) -> list[str]:
    """A line if the runs come from different states of the program."""
    commits = [collect.lookup(run.manifest, "git", "commit") for run in runs]
    versions = [collect.lookup(run.manifest, "versions", "qmix_jax") for run in runs]
    found = dict.fromkeys(zip(versions, commits, strict=True))
    if len(found) < 2:
        return []
    names = [f"{version} ({str(commit)[:10]})" for version, commit in found]
    return [f"the runs come from {len(found)} states of qmix_jax: {', '.join(names)}"]


def _metric(runs: Sequence[collect.RunDirectory]) -> str:
    """The first metric that every run of a task has, or the first that any has."""
    has = {
        name: [learning_curves.series(run.metrics, name)[0].size > 0 for run in runs]
        for name in scores.METRICS
    }
    return next((name for name in has if all(has[name])), scores.METRICS[-1])


def _cell(
    label: str, metric: str, runs: Sequence[collect.RunDirectory], notes: list[str]
) -> SettingResult:
    """Pools the runs of a setting, those that were evaluated as often as the longest of them."""
    ordered = sorted(runs, key=lambda run: run.started)
    longest = max(
        ordered, key=lambda run: learning_curves.series(run.metrics, metric)[0][-1:].sum()
    )
    steps = learning_curves.series(longest.metrics, metric)[0]
    rows: dict[int, tuple[collect.RunDirectory, Mapping[str, np.ndarray]]] = {}
    for run in ordered:
        table = _table(run, metric, steps)
        if table is None:
            own = len(learning_curves.series(run.metrics, metric)[0])
            notes.append(
                f"{run.path}: left out, it has {own} of the {len(steps)} evaluations of other "
                f"runs of its setting ({label})"
            )
            continue
        twice = sorted(rows.keys() & table.keys())
        if twice:
            notes.append(
                f"{run.path}: seed {', '.join(map(str, twice))} of this setting was run before, in "
                f"{', '.join(dict.fromkeys(str(rows[seed][0].path) for seed in twice))}; this one, "
                f"the newest, counts ({label})"
            )
        rows |= {seed: (run, values) for seed, values in table.items()}
    seeds = sorted(rows)
    shared = [name for name in scores.METRICS if all(name in rows[seed][1] for seed in seeds)]
    names = [metric, *(name for name in shared if name != metric)]
    values = {name: np.stack([rows[seed][1][name] for seed in seeds]) for name in names}
    used = {id(run): run for run, _ in rows.values()}
    return SettingResult(steps, tuple(seeds), values, tuple(used.values()))


def _table(
    run: collect.RunDirectory, metric: str, steps: np.ndarray
) -> dict[int, dict[str, np.ndarray]] | None:
    """Seed -> metric -> its values at the steps; None where the run has not got that far.

    A run whose members were all frozen ended early. What they had learnt stays as it was, so
    that their last evaluation stands for those that are missing, as it does for a member that is
    frozen beside others: leaving such a run out would flatter the setting.
    """
    table: dict[int, dict[str, np.ndarray]] = {}
    seeds = [int(seed) for seed in np.unique(run.metrics["seed"])]
    for name in scores.METRICS:
        own, values = learning_curves.series(run.metrics, name)
        if run.failure and not run.unfinished and own.size:
            at = np.clip(np.searchsorted(own, steps, side="right") - 1, 0, None)
            own, values = steps, values[:, at]
        rows = zip(seeds, values, strict=True) if np.array_equal(own, steps) else ()
        for seed, row in rows:
            table.setdefault(seed, {})[name] = row
    return table if all(metric in row for row in table.values()) and table else None
