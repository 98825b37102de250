"""Claims run directories; writes and reads their metrics."""

import contextlib
import csv
import io
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from qmix_jax import config
from qmix_jax.loggers import base

_METRICS = ("metrics.csv", "metrics.jsonl")


class InUseError(config.ConfigError):
    """Another process is training in the run directory."""


def claim(directory: str | os.PathLike[str], resume: bool = False) -> pathlib.Path:
    """Creates a run directory; with `resume` it may already contain the run.

    Raises: ConfigError if it is not writable, or has the metrics of another run.
    """
    path = pathlib.Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise config.ConfigError(
            f"run directory: cannot write to {str(path)!r} ({error.strerror}); "
            "choose another hydra.run.dir"
        ) from error
    if not resume:
        _refuse_used(path)
    return path


@contextlib.contextmanager
def claimed(directories: Mapping[pathlib.Path, bool]) -> Iterator[None]:
    """Claims directories (path -> `resume`); on a `ConfigError`, removes those still empty."""
    for directory, resume in directories.items():
        claim(directory, resume)
    try:
        yield
    except InUseError:
        raise  # the files belong to the other process
    except config.ConfigError:
        for directory in directories:
            _remove_empty(directory)
        raise


def _remove_empty(directory: pathlib.Path) -> None:
    """Removes a directory that contains at most the lock of a run that did not start."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    if any(path.name != ".lock" for path in files):
        return
    for path in files:
        path.unlink()
        path.parent.rmdir()
    with contextlib.suppress(OSError):  # an empty subfolder, not ours
        directory.rmdir()


def set_aside(directory: pathlib.Path) -> str | None:
    """Renames metrics, if any, to `metrics.interrupted-<n>.*`; returns the new name."""
    used = [name for name in _METRICS if (directory / name).exists()]
    if not used:
        return None
    number = 1
    while any(directory.glob(f"metrics.interrupted-{number}.*")):
        number += 1
    stem = f"metrics.interrupted-{number}"
    for name in used:
        (directory / name).rename(directory / name.replace("metrics", stem, 1))
    return f"{stem}.csv"


def sort_rows(directory: pathlib.Path) -> None:
    """Sorts rows by update, training before evaluation: as if all slices had trained together."""
    header, *lines = _read_lines(directory / "metrics.csv")
    json_lines = _read_lines(directory / "metrics.jsonl")
    rows = [json.loads(line) for line in json_lines]
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["update"], rows[i]["kind"] == "eval"))
    for name, head, body in (("metrics.csv", [header], lines), ("metrics.jsonl", [], json_lines)):
        with atomic(directory / name) as file:
            file.write("".join([*head, *(body[i] for i in order)]).encode())


def merge_metrics(directory: pathlib.Path, parts: Sequence[pathlib.Path]) -> None:
    """Merges the metrics of `parts`, which have consecutive members of the run, in order."""
    for name, n_head in (("metrics.csv", 1), ("metrics.jsonl", 0)):
        files = [_read_lines(part / name) for part in parts]
        rows = [row for lines in files for row in lines[n_head:]]
        with atomic(directory / name) as file:
            file.write("".join([*files[0][:n_head], *rows]).encode())
    sort_rows(directory)


def _read_lines(path: pathlib.Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


class MetricsFiles(contextlib.AbstractContextManager["MetricsFiles"]):
    """Writes `metrics.csv` (all columns) and `metrics.jsonl` (present keys), a row per (kind, step,
    seed).

    Empty cells are missing values. Numbers read back exactly; NaN and infinity are `null` in JSON.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        columns: Sequence[str],
        sizes: Sequence[int] | None = None,
    ) -> None:
        """Opens both files.

        Args:
          directory: an existing run directory.
          columns: names of all metrics that any row will have, in order.
          sizes: `sizes` at a checkpoint: later rows are dropped. None for new files.
        Raises:
          ConfigError: the directory already has metrics, or files shorter than `sizes`.
        """
        path = pathlib.Path(directory)
        if sizes is None:
            _refuse_used(path)
        else:
            check_resumable(path, sizes, columns)
            for name, size in zip(_METRICS, sizes, strict=True):
                os.truncate(path / name, size)
        mode = "x" if sizes is None else "a"
        self._csv = (path / "metrics.csv").open(mode, encoding="utf-8", newline="")
        self._jsonl = (path / "metrics.jsonl").open(mode, encoding="utf-8")
        self._writer = csv.DictWriter(self._csv, (*base.KEYS, *columns), lineterminator="\n")
        if sizes is None:
            self._writer.writeheader()
            self._csv.flush()

    @property
    def sizes(self) -> list[int]:
        """Bytes of both files, flushed to disk: a checkpoint must not outlive its rows."""
        for file in (self._csv, self._jsonl):
            os.fsync(file.fileno())
        return [os.fstat(file.fileno()).st_size for file in (self._csv, self._jsonl)]

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows, which map all `base.KEYS` and any columns to text or scalars.

        Raises: ValueError for a missing key or an unknown column.
        """
        for row in rows:
            values = {name: _scalar(value) for name, value in row.items()}
            if missing := [key for key in base.KEYS if key not in values]:
                raise ValueError(f"metrics row without {', '.join(missing)}: {sorted(values)}")
            self._writer.writerow(values)
            self._jsonl.write(json.dumps(plain(values), allow_nan=False) + "\n")
        self._csv.flush()
        self._jsonl.flush()

    def __exit__(self, *_: object) -> None:
        with self._csv, self._jsonl:
            pass  # closes both, even if the first one raises


def read_metrics(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a `metrics.csv`; ignores an unfinished last line.

    Returns:
      Column -> array with one entry per row: f64, NaN for empty cells; `kind` is text.
    Raises: ConfigError if the file cannot be read.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise config.ConfigError(
            f"metrics: cannot read {str(path)!r} ({error.strerror}); give the metrics.csv of a run"
        ) from error
    complete = text[: text.rfind("\n") + 1]
    header, *rows = csv.reader(io.StringIO(complete)) if complete else [list(base.KEYS)]
    cells = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else {}
    columns = {
        name: np.array([float(cell) if cell else math.nan for cell in cells.get(name, ())])
        for name in header
        if name != "kind"
    }
    return {"kind": np.array(cells.get("kind", ()), dtype=str), **columns}


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a binary file that replaces `path` if the block ends without an error."""
    target = pathlib.Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Converts a nested value for JSON: arrays to lists, NaN and infinity to None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if getattr(value, "ndim", 0):
        return [plain(item) for item in np.asarray(value)]
    if isinstance(value, pathlib.PurePath):
        return str(value)
    value = _scalar(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalar(value: Any) -> Any:
    """Converts to a Python scalar; an f32 to the shortest decimal that rounds to it (0.1)."""
    if value is None or isinstance(value, str | bool | int):
        return value
    number = np.asarray(value)[()]
    return float(str(number)) if number.dtype == np.float32 else number.item()


def check_resumable(directory: pathlib.Path, sizes: Sequence[int], columns: Sequence[str]) -> None:
    """Raises: ConfigError if files are missing, shorter than `sizes`, or have other columns."""
    for name, size in zip(_METRICS, sizes, strict=True):
        path = directory / name
        if not path.is_file() or path.stat().st_size < size:
            raise config.ConfigError(
                f"resume: {str(path)!r} is missing or shorter than at the checkpoint ({size} "
                "bytes); restore it, or remove the newest folder in `checkpoints`"
            )
    with (directory / _METRICS[0]).open(encoding="utf-8") as file:
        header = file.readline().rstrip("\n").split(",")
    if header != [*base.KEYS, *columns]:
        raise config.ConfigError(
            f"resume: {str(directory / _METRICS[0])!r} has other columns than this version writes; "
            "resume with the version in manifest.json"
        )


def _refuse_used(directory: pathlib.Path) -> None:
    for name in _METRICS:
        if (directory / name).exists():
            raise config.ConfigError(
                f"run directory: {str(directory)!r} already has {name} of another run; "
                "choose another hydra.run.dir"
            )
