"""Repeats a run from what its directory keeps, and says whether it came to the same."""

import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table
import rich.text

from qmix_jax import api, config, groups, reprs
from qmix_jax.console import progress
from qmix_jax.doctor import compare
from qmix_jax.runs import metadata, storage

_TOLERANCE = 1e-4
"""Rounding of another processor or batching stays below this for a while; learning amplifies it."""
_NOTHING = (
    "nothing that the manifests record: a file of the run was changed afterwards, a component of "
    "your own was, or this device does not repeat itself (on a GPU set "
    "XLA_FLAGS=--xla_gpu_deterministic_ops=true for both)"
)


@dataclasses.dataclass(frozen=True)
class Rerun:
    """What repeating a run came to.

    Attributes:
      directory, repeated: the run directories, the old and the new one.
      comparison: of their metrics.
      tolerance: what was close enough.
      differences: what differs in versions, commit, device and layout: name -> (old, new).
      notes: lines on what could not be compared.
    """

    directory: pathlib.Path
    repeated: pathlib.Path
    comparison: compare.Comparison
    tolerance: float
    differences: Mapping[str, tuple[Any, Any]]
    notes: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Every common metric is exact or within the tolerance."""
        return self.comparison.verdict != compare.DIFFERENT

    def summary(self) -> dict[str, Any]:
        """Fields of `repr`: the verdict, and the first difference of metrics and manifests."""
        first = self.comparison.first
        return {
            "directory": self.directory,
            "repeated": self.repeated,
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
    """Repeats a run from its configuration and compares the metrics, wall-clock columns apart.

    A run that was ended early is repeated up to where it was, and the rows that both have are
    compared. Loggers are left out.

    Args:
      directory: of the run.
      out: a new or empty directory; by default `<directory>.rerun-<n>`.
      tolerance: relative difference up to which two numbers count as equal.
    Returns:
      A `Rerun`; what is in it is also printed.
    Raises:
      ConfigError: not the directory of a run, one whose configuration was changed since, or a
        setting that cannot be honoured here.
    """
    path = pathlib.Path(directory)
    manifest, cfg, old = _read(path)
    if not tolerance >= 0:
        raise config.ConfigError(f"rerun: tolerance={tolerance} must be 0 or more")
    short, notes = _shortened(cfg, int(old["env_steps"].max()), manifest["plan"])
    target = pathlib.Path(out) if out is not None else _beside(path)
    try:
        interrupted = api.train(short, target, f"qmix_jax.rerun({str(path)!r})").interrupted
    except api.NonFiniteError:
        interrupted = False
        notes.append("a member diverged; every row is there all the same")
    if interrupted:
        raise KeyboardInterrupt
    new = storage.read_metrics(target / "metrics.csv")
    if short != cfg:
        new = compare.common(new, old)
    comparison = compare.metrics(old, new, tolerance)
    if manifest.get("resumed") and comparison.verdict != compare.EXACT:
        times = progress.count(len(manifest["resumed"]), "time")
        notes.append(
            f"this run went on {times} after an interruption; what was changed then (its length, "
            "evaluation) was not so before, and shows as rows that differ"
        )
    done = Rerun(
        directory=path,
        repeated=target,
        comparison=comparison,
        tolerance=tolerance,
        differences=compare.surroundings(manifest, _manifest(target)),
        notes=tuple(notes),
    )
    show(done)
    return done


def show(done: Rerun, console: rich.console.Console | None = None) -> None:
    """Prints what came of it."""
    console = console or progress.terminal()
    table = rich.table.Table(title="Rerun", title_justify="left", box=rich.box.SIMPLE_HEAD)
    table.add_column("column", no_wrap=True)
    table.add_column("verdict")
    table.add_column("rows that differ", justify="right")
    table.add_column("largest relative difference", justify="right")
    for column in done.comparison.columns:
        apart = column.verdict == compare.MACHINE
        figures = ("", "") if apart else (str(column.n_different), f"{column.largest:.2g}")
        verdict = "not compared" if apart else column.verdict
        table.add_row(column.name, rich.text.Text(verdict, _STYLES[column.verdict]), *figures)
    console.print(table)
    for name, line in _lines(done):
        console.print(rich.text.Text(f"  {name:<9} {line}"), soft_wrap=True)


_STYLES = {
    compare.EXACT: "green",
    compare.CLOSE: "yellow",
    compare.DIFFERENT: "red",
    compare.MACHINE: "dim",
}


def _lines(done: Rerun) -> Iterator[tuple[str, str]]:
    """(what it is about, the line)."""
    found = done.comparison
    rows = progress.count(found.n_rows, "row")
    if found.verdict == compare.EXACT:
        yield "result", f"equal, bit for bit, in {rows}"
    elif found.verdict == compare.CLOSE:
        yield "result", f"equal within {done.tolerance:g} (relative) in {rows}, but not bit for bit"
    else:
        yield "result", f"DIFFERENT, {rows} compared"
    if found.first is not None:
        yield "first", str(found.first)
    for label, number in (("this run", found.only_old), ("the repetition", found.only_new)):
        if number:
            yield "rows", f"{progress.count(number, 'row')} only in {label}"
    if found.missing:
        yield "columns", f"in one of the two only: {', '.join(found.missing)}"
    for note in done.notes:
        yield "note", note
    for name, (old, new) in done.differences.items():
        yield "differs", f"{name}: {old} then, {new} now"
    if found.verdict != compare.EXACT:
        yield "reason", _reason(done)
    yield "file", f"{done.repeated / 'metrics.csv'}"


def _reason(done: Rerun) -> str:
    """The likeliest one."""
    if not done.differences:
        return _NOTHING
    name = next(iter(done.differences))
    if name.startswith("git"):
        return "likely the code of qmix_jax; check out the commit of then to be sure"
    if name.startswith("versions"):
        return f"likely {name.removeprefix('versions.')}; install the version of then to be sure"
    return "likely another machine or layout: sums are added up in another order"


def _read(
    path: pathlib.Path,
) -> tuple[Mapping[str, Any], config.ExperimentConfig, Mapping[str, np.ndarray]]:
    """(manifest, configuration to repeat, metrics). Raises: ConfigError."""
    manifest = _manifest(path)
    cfg = metadata.read_run_config(path)
    changed = groups.differing_keys(cfg, config.load(manifest["config"]))
    if changed:
        raise config.ConfigError(
            f"rerun: config.yaml of {str(path)!r} was changed after the run, in "
            f"{', '.join(changed)}; put back what manifest.json has under `config`"
        )
    old = storage.read_metrics(path / "metrics.csv")
    if not len(old["seed"]):
        raise config.ConfigError(f"rerun: {str(path)!r} has no row of metrics to compare with")
    values = {"resume": None, "checkpoint.enabled": False, "population.distributed": False}
    return manifest, config.with_values(cfg, {**values, "logger": {}, "stop": {}}), old


def _manifest(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        found = {**found, "config": {**found["config"]}, "plan": {**found["plan"]}}
    except OSError as error:
        raise config.ConfigError(
            f"rerun: {str(path)!r} is not the directory of a run: cannot read manifest.json "
            f"({error.strerror}); give one that holds config.yaml, manifest.json and metrics.csv"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise config.ConfigError(
            f"rerun: {str(path / 'manifest.json')!r} is not the manifest of a run; it was damaged "
            "or written by something else"
        ) from error
    return found


def _shortened(
    cfg: config.ExperimentConfig, reached: int, plan: Mapping[str, int]
) -> tuple[config.ExperimentConfig, list[str]]:
    """(the run up to the env steps of its last row, with the replay of the whole run; notes)."""
    wanted = (plan["warm_up_collects"] + plan["n_updates"]) * plan["steps_per_update"]
    if reached >= wanted:
        return cfg, []
    values: dict[str, Any] = {"trainer.env_steps": max(1, reached)}
    if cfg.replay.kind != "on_policy":
        values["replay.capacity"] = plan["capacity"]
    return config.with_values(cfg, values), [
        f"this run ended at {reached:,} of {wanted:,} env steps: it was repeated up to there, and "
        "the rows that it has are compared"
    ]


def _beside(path: pathlib.Path) -> pathlib.Path:
    """The first of `<path>.rerun-<n>` that does not exist."""
    path = path.resolve()
    names = (path.with_name(f"{path.name}.rerun-{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())
