"""`qmix_jax.rerun`: repeats a run from its directory and compares the metrics."""

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import rich.box
import rich.table
import rich.text

from qmix_jax import api, config, groups, reprs
from qmix_jax.console import progress
from qmix_jax.doctor import compare
from qmix_jax.runs import metadata, storage

_TOLERANCE = 1e-4
"""Rounding differences of another processor or batching stay below this at first."""
_UNKNOWN = (
    "nothing recorded in the manifests: a file of the run or a user-defined component was changed "
    "afterwards, or this device is not deterministic (on a GPU, set "
    "XLA_FLAGS=--xla_gpu_deterministic_ops=true for both runs)"
)
_STYLES = {
    compare.EXACT: "green",
    compare.CLOSE: "yellow",
    compare.DIFFERENT: "red",
    compare.NOT_COMPARED: "dim",
}


@dataclasses.dataclass(frozen=True)
class Rerun:
    """A run and its repetition.

    Attributes:
      directory, new_directory: the run directories.
      comparison: comparison of their metrics.
      tolerance: largest relative difference that counts as equal.
      differences: versions, commit, device and layout that differ: name -> (old, new).
      notes: limits of the comparison, one line each.
    """

    directory: pathlib.Path
    new_directory: pathlib.Path
    comparison: compare.Comparison
    tolerance: float
    differences: Mapping[str, tuple[Any, Any]]
    notes: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Every shared metric is exact or within the tolerance."""
        return self.comparison.verdict != compare.DIFFERENT

    def summary(self) -> dict[str, Any]:
        """Fields of `repr`: the verdict, and the first difference of metrics and manifests."""
        first = self.comparison.first
        return {
            "directory": self.directory,
            "new_directory": self.new_directory,
            "verdict": self.comparison.verdict,
            "rows": self.comparison.n_rows,
            **({"first difference": first} if first is not None else {}),
            **({"manifests differ in": ", ".join(self.differences)} if self.differences else {}),
        }

    __repr__, _repr_html_ = reprs.text, reprs.html


def rerun(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    tolerance: float = _TOLERANCE,
) -> Rerun:
    """Repeats a run from its configuration, without loggers, and compares the metrics.

    A run that ended early is repeated up to its last row. Wall-clock columns are not compared.

    Args:
      directory: the run directory.
      out: a new or empty directory; by default `<directory>.rerun-<n>`.
      tolerance: largest relative difference of two numbers that count as equal.
    Returns:
      A `Rerun`, which is also printed.
    Raises:
      ConfigError: not a run directory, a configuration that was changed after the run, or a
        setting that cannot be honoured here.
    """
    path = pathlib.Path(directory)
    if not tolerance >= 0:
        raise config.ConfigError(f"rerun: tolerance={tolerance} must be 0 or more")
    manifest = _read_manifest(path)
    cfg, old = _read_config(path, manifest), storage.read_metrics(path / "metrics.csv")
    if not len(old["seed"]):
        raise config.ConfigError(f"rerun: {str(path)!r} has no row of metrics to compare with")
    shortened, notes = _shorten(cfg, int(old["env_steps"].max()), manifest["plan"])
    target = pathlib.Path(out) if out is not None else _next_free(path)
    try:
        interrupted = api.train(shortened, target, f"qmix_jax.rerun({str(path)!r})").interrupted
    except api.NonFiniteError:
        interrupted = False
        notes.append("a member diverged; all rows were written nevertheless")
    if interrupted:
        raise KeyboardInterrupt
    new = storage.read_metrics(target / "metrics.csv")
    if shortened != cfg:
        new = compare.shared_rows(new, old)
    comparison = compare.metrics(old, new, tolerance)
    if manifest.get("resumed") and comparison.verdict != compare.EXACT:
        times = progress.count(len(manifest["resumed"]), "time")
        notes.append(
            f"this run was resumed {times}; settings changed then (length, evaluation) apply to "
            "the entire rerun, and appear as rows that differ"
        )
    differences = compare.manifests(manifest, _read_manifest(target))
    result = Rerun(path, target, comparison, tolerance, differences, tuple(notes))
    _print(result)
    return result


def _print(result: Rerun) -> None:
    table = rich.table.Table(title="Rerun", title_justify="left", box=rich.box.SIMPLE_HEAD)
    table.add_column("column", no_wrap=True)
    table.add_column("verdict")
    table.add_column("rows that differ", justify="right")
    table.add_column("largest relative difference", justify="right")
    for column in result.comparison.columns:
        compared = column.verdict != compare.NOT_COMPARED
        cells = (str(column.n_different), f"{column.largest:.2g}") if compared else ("", "")
        verdict = rich.text.Text(column.verdict, _STYLES[column.verdict])
        table.add_row(column.name, verdict, *cells)
    with progress.output() as out:
        out.print(table)
        for label, line in _lines(result):
            out.print(rich.text.Text(f"  {label:<9} {line}"), soft_wrap=True)


def _lines(result: Rerun) -> Iterator[tuple[str, str]]:
    """Yields (label, line)."""
    comparison = result.comparison
    rows = progress.count(comparison.n_rows, "row")
    results = {
        compare.EXACT: f"equal, bit for bit, in {rows}",
        compare.CLOSE: f"equal in {rows} within {result.tolerance:g} (relative), not bit for bit",
        compare.DIFFERENT: f"DIFFERENT, {rows} compared",
    }
    yield "result", results[comparison.verdict]
    if comparison.first is not None:
        yield "first", str(comparison.first)
    counts = {"this run": comparison.only_old, "the rerun": comparison.only_new}
    for label, count in counts.items():
        if count:
            yield "rows", f"{progress.count(count, 'row')} only in {label}"
    if comparison.missing:
        yield "columns", f"only in one of the two: {', '.join(comparison.missing)}"
    for note in result.notes:
        yield "note", note
    for name, (old, new) in result.differences.items():
        yield "differs", f"{name}: {old} then, {new} now"
    if comparison.verdict != compare.EXACT:
        yield "reason", _likely_reason(result)
    yield "file", f"{result.new_directory / 'metrics.csv'}"


def _likely_reason(result: Rerun) -> str:
    name = next(iter(result.differences), None)
    if name is None:
        return _UNKNOWN
    if name.startswith("git"):
        return "likely the code of qmix_jax; check out the old commit to be sure"
    if name.startswith("versions"):
        return f"likely {name.removeprefix('versions.')}; install the old version to be sure"
    return "likely another machine or layout, where sums are rounded differently"


def _read_config(path: pathlib.Path, manifest: Mapping[str, Any]) -> config.ExperimentConfig:
    """Returns the configuration to repeat. Raises: ConfigError if it was changed after the run."""
    cfg = metadata.read_run_config(path)
    changed = groups.differing_keys(cfg, config.load(manifest["config"]))
    if changed:
        raise config.ConfigError(
            f"rerun: config.yaml of {str(path)!r} was changed after the run, in "
            f"{', '.join(changed)}; restore the values of `config` in manifest.json"
        )
    values = {"resume": None, "checkpoint.enabled": False, "population.distributed": False}
    return config.with_values(cfg, {**values, "logger": {}, "stop": {}})


def _read_manifest(path: pathlib.Path) -> dict[str, Any]:
    manifest = metadata.read_manifest(path)
    if not all(isinstance(manifest.get(key), dict) for key in ("config", "plan")):
        raise config.ConfigError(
            f"rerun: {str(path)!r} is not a run directory: no manifest.json with `config` and "
            "`plan`; give one with config.yaml, manifest.json and metrics.csv"
        )
    return manifest


def _shorten(
    cfg: config.ExperimentConfig, reached: int, plan: Mapping[str, int]
) -> tuple[config.ExperimentConfig, list[str]]:
    """Shortens a run to the env steps of its last row, with its replay capacity; adds notes."""
    planned = (plan["warm_up_collects"] + plan["n_updates"]) * plan["steps_per_update"]
    if reached >= planned:
        return cfg, []
    values: dict[str, Any] = {"trainer.env_steps": max(1, reached)}
    if cfg.replay.kind != "on_policy":
        values["replay.capacity"] = plan["capacity"]
    return config.with_values(cfg, values), [
        f"this run ended at {reached:,} of {planned:,} env steps: it was repeated up to there, and "
        "these rows are compared"
    ]


def _next_free(path: pathlib.Path) -> pathlib.Path:
    """Returns the first `<path>.rerun-<n>` that does not exist."""
    path = path.resolve()
    names = (path.with_name(f"{path.name}.rerun-{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())
