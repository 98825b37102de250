"""Finds run directories below given ones, and reads them."""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qmix_jax import config
from qmix_jax.console import learning_curves
from qmix_jax.runs import metadata, scores, storage

FILES = ("config.yaml", "manifest.json", "metrics.csv")
"""What a run directory holds."""


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A run directory as it is on disk.

    Attributes:
      path: where it was found.
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
        """The environment as its adapter names it: `HeuristicEnemySMAX/3m`."""
        return str(lookup(self.manifest, "plan", "env"))

    @property
    def started(self) -> str:
        """When, in UTC; later runs sort behind earlier ones."""
        return str(self.manifest.get("started", ""))

    @property
    def failure(self) -> str | None:
        """Why members of it were frozen."""
        failures = lookup(self.manifest, "reached", "failures") or {}
        return "; ".join(failures.values()) or None

    @property
    def unfinished(self) -> str:
        """Why it did not reach its end, and where it stands; empty for a run that did."""
        if lookup(self.manifest, "reached", "updates") is None:
            state = "unfinished"
        elif lookup(self.manifest, "reached", "interrupted"):
            state = "interrupted"
        else:
            return ""
        wanted = lookup(self.config, "trainer", "env_steps")
        of = f" of {wanted:,}" if isinstance(wanted, int) else ""
        return f"{state} at {int(self.metrics['env_steps'].max()):,}{of} env steps"


def lookup(mapping: Mapping[str, Any], *keys: str) -> Any:
    """A nested value; None where any of the keys is missing."""
    node: Any = mapping
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def collect(
    directories: Sequence[str | os.PathLike[str]],
) -> tuple[tuple[RunDirectory, ...], tuple[str, ...]]:
    """Reads every run below the directories.

    Links are followed, and a run that is reached twice counts once.

    Args:
      directories: run directories, sweeps, or folders of either, nested as deep as you like.
    Returns:
      The runs in the order of the directories and then of their paths, and a line for each that
      is left out because it has no evaluation yet or lacks a file.
    Raises:
      ConfigError: a directory that does not exist or holds no run, a file that cannot be read, or
        no run that has been evaluated.
    """
    runs, warnings = [], []
    for path in find(directories):
        missing = [name for name in FILES if not (path / name).is_file()]
        run = None if missing else read(path)
        if run is None:
            warnings.append(f"{path}: left out, it has no {' and no '.join(missing)}")
        elif not any(learning_curves.series(run.metrics, name)[0].size for name in scores.METRICS):
            warnings.append(f"{path}: left out, it has no evaluation yet")
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
    """The run directories below the given ones, each once, unfinished ones included.

    Raises: ConfigError for a directory that does not exist, cannot be read or holds none.
    """
    if not directories:
        raise config.ConfigError("report: no directory; give at least one run or sweep")
    found: dict[str, pathlib.Path] = {}
    for directory in directories:
        root = pathlib.Path(directory)
        if not root.is_dir():
            what = "is no directory" if root.exists() else "does not exist"
            raise config.ConfigError(
                f"report: {str(root)!r} {what}; give directories that `qmix-jax train` wrote"
            )
        below = list(_walk(root))
        if not below:
            raise config.ConfigError(
                f"report: {str(root)!r} holds no run ({', '.join(FILES)}); "
                "give directories that `qmix-jax train` wrote"
            )
        for path in below:
            found.setdefault(os.path.realpath(path), path)
    return tuple(found.values())


def read(path: pathlib.Path) -> RunDirectory:
    """Reads one run directory.

    Raises: ConfigError for a file that is broken, in one line that names it.
    """
    mapping = _read(path / "config.yaml", metadata.read_config)
    manifest = _read(path / "manifest.json", _manifest)
    return RunDirectory(path, mapping, manifest, _read(path / "metrics.csv", _metrics))


def _walk(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Run directories in sorted order; a link that leads back ends there."""
    seen = set()
    for folder, names, files in os.walk(root, onerror=_unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names.sort()
        if "metrics.csv" in files or {"config.yaml", "manifest.json"} <= set(files):
            yield pathlib.Path(folder)


def _unreadable(error: OSError) -> None:
    raise config.ConfigError(
        f"report: cannot read {error.filename!r} ({error.strerror}); make it readable or "
        "name the directories without it"
    ) from error


def _read(path: pathlib.Path, reader: Callable[[pathlib.Path], Any]) -> Any:
    try:
        return reader(path)
    except config.ConfigError:
        raise
    except (OSError, ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise config.ConfigError(
            f"report: {str(path)!r} is broken ({reason}); repair it or name the directories "
            "without it"
        ) from error


def _manifest(path: pathlib.Path) -> dict[str, Any]:
    manifest = metadata.read_manifest(path.parent)
    if not isinstance(lookup(manifest, "plan", "env"), str):
        raise ValueError("it does not name the environment in plan.env")
    return manifest


def _metrics(path: pathlib.Path) -> dict[str, np.ndarray]:
    metrics = storage.read_metrics(path)
    missing = [name for name in storage.KEYS if name not in metrics]
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}")
    for name in ("env_steps", "seed"):
        if not np.isfinite(metrics[name]).all():
            raise ValueError(f"it has rows without {name}")
    return metrics
