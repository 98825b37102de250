"""Finds and reads run directories."""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qmix_jax import config
from qmix_jax.console import learning_curves
from qmix_jax.loggers import base
from qmix_jax.runs import metadata, scores, storage

FILES = ("config.yaml", "manifest.json", "metrics.csv")
"""Files of a run directory that a report reads."""


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Contents of a run directory.

    Attributes:
      path: the directory.
      config: the nested mapping of `config.yaml`.
      manifest: the mapping of `manifest.json`.
      metrics: columns of `metrics.csv`, as from `storage.read_metrics`.
    """

    path: pathlib.Path
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    metrics: Mapping[str, np.ndarray]

    @property
    def task(self) -> str:
        """Name of the environment, for example `HeuristicEnemySMAX/3m`."""
        return str(lookup(self.manifest, "plan", "env"))

    @property
    def failure(self) -> str | None:
        """Why members were frozen; None if none was."""
        failures = lookup(self.manifest, "reached", "failures") or {}
        return "; ".join(failures.values()) or None

    @property
    def unfinished(self) -> str:
        """For a run that has not finished, its state and progress; else empty."""
        if lookup(self.manifest, "reached", "updates") is None:
            state = "unfinished"
        elif lookup(self.manifest, "reached", "interrupted"):
            state = "interrupted"
        else:
            return ""
        budget = lookup(self.config, "trainer", "env_steps")
        of = f" of {budget:,}" if isinstance(budget, int) else ""
        return f"{state} at {int(self.metrics['env_steps'].max()):,}{of} env steps"


def lookup(mapping: Mapping[str, Any], *keys: str) -> Any:
    """Returns a nested value, or None if a key is missing."""
    node: Any = mapping
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def collect(
    directories: Sequence[str | os.PathLike[str]],
) -> tuple[tuple[RunDirectory, ...], tuple[str, ...]]:
    """Reads every run below the directories.

    Follows links; a run that is reached twice counts once.

    Args:
      directories: run directories, sweeps, or folders of either, at any depth.
    Returns:
      The runs in the order of the directories and then of their paths, and a warning for each run
      that is skipped because it has no evaluation yet or lacks a file.
    Raises:
      ConfigError: a directory that does not exist or has no run, a file that cannot be read, or
        no run that has been evaluated.
    """
    runs, warnings = [], []
    for path in find(directories):
        missing = [name for name in FILES if not (path / name).is_file()]
        run = None if missing else read(path)
        if run is None:
            warnings.append(f"{path}: skipped, it has no {' and no '.join(missing)}")
        elif not any(learning_curves.series(run.metrics, name)[0].size for name in scores.METRICS):
            warnings.append(f"{path}: skipped, it has no evaluation yet")
        else:
            runs.append(run)
    if not runs:
        more = f" (and {len(warnings) - 1} more)" if len(warnings) > 1 else ""
        raise config.ConfigError(
            f"report: no run has been evaluated yet: {warnings[0]}{more}; "
            "give runs that have reached an evaluation"
        )
    return tuple(runs), tuple(warnings)


def find(directories: Sequence[str | os.PathLike[str]]) -> tuple[pathlib.Path, ...]:
    """Returns every run directory below the directories once, unfinished ones included.

    Raises: ConfigError for a directory that does not exist, cannot be read or has no run.
    """
    if not directories:
        raise config.ConfigError("report: no directory; give at least one run or sweep")
    paths: dict[str, pathlib.Path] = {}
    for root in map(pathlib.Path, directories):
        below = list(_walk(root)) if root.is_dir() else []
        for path in below:
            paths.setdefault(os.path.realpath(path), path)
        if not below:
            problem = f"has no run ({', '.join(FILES)})" if root.is_dir() else "is not a directory"
            raise config.ConfigError(
                f"report: {str(root)!r} {problem if root.exists() else 'does not exist'}; "
                "give directories that `qmix-jax train` wrote"
            )
    return tuple(paths.values())


def read(path: pathlib.Path) -> RunDirectory:
    """Reads one run directory.

    Raises: ConfigError for a broken file, in one line that names it.
    """
    return RunDirectory(
        path=path,
        config=_read(path / "config.yaml", metadata.read_config),
        manifest=_read(path / "manifest.json", _read_manifest),
        metrics=_read(path / "metrics.csv", _read_metrics),
    )


def _walk(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields run directories in sorted order; visits each folder once, even if links form loops."""
    visited = set()
    for folder, names, files in os.walk(root, onerror=_raise_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            names.clear()
            continue
        visited.add(real)
        names.sort()
        if "metrics.csv" in files or {"config.yaml", "manifest.json"} <= set(files):
            yield pathlib.Path(folder)


def _raise_unreadable(error: OSError) -> None:
    raise config.ConfigError(
        f"report: cannot read {error.filename!r} ({error.strerror}); make it readable, or give "
        "directories without it"
    ) from error


def _read(path: pathlib.Path, reader: Callable[[pathlib.Path], Any]) -> Any:
    try:
        return reader(path)
    except config.ConfigError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise config.ConfigError(
            f"report: {str(path)!r} is broken ({reason}); repair it, or give directories without it"
        ) from error


def _read_manifest(path: pathlib.Path) -> dict[str, Any]:
    manifest = metadata.read_manifest(path.parent)
    if not isinstance(lookup(manifest, "plan", "env"), str):
        raise ValueError("plan.env does not name the environment")
    return manifest


def _read_metrics(path: pathlib.Path) -> dict[str, np.ndarray]:
    metrics = storage.read_metrics(path)
    missing = [name for name in base.KEYS if name not in metrics]
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}")
    for name in ("env_steps", "seed"):
        if not np.isfinite(metrics[name]).all():
            raise ValueError(f"it has rows without {name}")
    return metrics
