"""Files of a run directory: claiming it, writing metrics as they come, reading them back."""

import contextlib
import csv
import io
import itertools
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np

from qmix_jax import config

KEYS = ("kind", "env_steps", "update", "gradient_step", "seed")
"""First columns of `metrics.csv`; every row has them."""

_METRICS = ("metrics.csv", "metrics.jsonl")


class InUseError(config.ConfigError):
    """Another process trains in the run directory."""


def claim(directory: str | os.PathLike[str], resume: bool = False) -> pathlib.Path:
    """Creates the run directory and proves that files can be written there.

    Args:
      resume: the run may be there already.
    Raises:
      ConfigError: it cannot be created or written, or it holds the metrics of another run.
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
    """Claims run directories; those still empty go again where a run cannot be honoured.

    Args:
      directories: each with whether its run may be there already.
    """
    for directory, resume in directories.items():
        claim(directory, resume)
    try:
        yield
    except InUseError:
        raise  # what is there is the other process's
    except config.ConfigError:
        for directory in itertools.filterfalse(_filled, directories):
            _remove(directory)
        raise


def _filled(directory: pathlib.Path) -> bool:
    """Whether there is more than the lock of a run that did not begin."""
    return any(path.is_file() and path.name != ".lock" for path in directory.rglob("*"))


def _remove(directory: pathlib.Path) -> None:
    for path in list(directory.rglob(".lock")):
        path.unlink()
        path.parent.rmdir()
    with contextlib.suppress(OSError):  # an empty folder of somebody else's
        directory.rmdir()


def set_aside(directory: pathlib.Path) -> str | None:
    """Renames the metrics in a directory, if any, to `metrics.interrupted-<n>.*`; the new name."""
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


def sort_rows(directory: str | os.PathLike[str]) -> None:
    """Puts rows of members that trained one after another into the order of a run in which they
    trained together: by update, training rows before evaluations.
    """
    path = pathlib.Path(directory)
    header, *lines = (path / "metrics.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    records = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    keys = [json.loads(record) for record in records]
    order = sorted(range(len(lines)), key=lambda i: (keys[i]["update"], keys[i]["kind"] == "eval"))
    for name, head, rows in (("metrics.csv", [header], lines), ("metrics.jsonl", [], records)):
        with atomic(path / name) as file:
            file.write("".join([*head, *(rows[i] for i in order)]).encode())


def merge(directory: str | os.PathLike[str], parts: Sequence[str | os.PathLike[str]]) -> None:
    """Writes the metrics of run directories with the same columns as those of one run, whose
    members are the parts' in this order.
    """
    for name, n_head in (("metrics.csv", 1), ("metrics.jsonl", 0)):
        texts = [pathlib.Path(part, name).read_text(encoding="utf-8") for part in parts]
        files = [text.splitlines(keepends=True) for text in texts]
        rows = [row for lines in files for row in lines[n_head:]]
        with atomic(pathlib.Path(directory, name)) as file:
            file.write("".join([*files[0][:n_head], *rows]).encode())
    sort_rows(directory)


class RowWriter(Protocol):
    """Where a run's rows go, one per member at a time."""

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None: ...


class SharedRows:
    """Rows of a population that several runs share: each row to its run's files."""

    def __init__(self, files: Sequence[RowWriter]) -> None:
        """The files of each member, in the order of the members."""
        self._files = files

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Takes one row per member."""
        pairs = zip(self._files, rows, strict=True)
        for _, group in itertools.groupby(pairs, key=lambda pair: id(pair[0])):
            owned = list(group)
            owned[0][0].write(row for _, row in owned)


class MetricsFiles(contextlib.AbstractContextManager["MetricsFiles"]):
    """`metrics.csv` (wide) and `metrics.jsonl` (only present keys), one row per (kind, step, seed).

    An empty cell means that the row has no such value. Numbers are written so that reading them
    gives the same number again; JSON has no NaN and no infinity, so there they are `null`.
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
          columns: names of all metrics that any row will have, in the order of the columns.
          sizes: what `sizes` was when a checkpoint was made: both files go on there, and rows
            after it are dropped. None for new files.
        Raises:
          ConfigError: the directory already holds metrics, or less than `sizes` says.
        """
        path = pathlib.Path(directory)
        if sizes is None:
            _refuse_used(path)
        else:
            check_sizes(path, sizes, (*KEYS, *columns))
            _cut(path, sizes)
        mode = "x" if sizes is None else "a"
        self._csv = (path / "metrics.csv").open(mode, encoding="utf-8", newline="")
        self._jsonl = (path / "metrics.jsonl").open(mode, encoding="utf-8")
        self._writer = csv.DictWriter(self._csv, (*KEYS, *columns), lineterminator="\n")
        if sizes is None:
            self._writer.writeheader()
            self._csv.flush()

    @property
    def sizes(self) -> list[int]:
        """Bytes of both files on the disk: a checkpoint must not outlive its rows."""
        for file in (self._csv, self._jsonl):
            os.fsync(file.fileno())
        return [os.fstat(file.fileno()).st_size for file in (self._csv, self._jsonl)]

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows and flushes.

        Args:
          rows: mappings with all of `KEYS` and any of the columns; values are text or scalars.
        Raises:
          ValueError: a row lacks one of `KEYS` or has an unknown one.
        """
        for row in rows:
            values = {name: _scalar(value) for name, value in row.items()}
            if missing := [key for key in KEYS if key not in values]:
                raise ValueError(f"metrics row without {', '.join(missing)}: {sorted(values)}")
            self._writer.writerow(values)
            self._jsonl.write(json.dumps(plain(values), allow_nan=False) + "\n")
        self._csv.flush()
        self._jsonl.flush()

    def __exit__(self, *_: object) -> None:
        with self._csv, self._jsonl:
            pass  # both are closed, whatever a full disk makes of the first one


def read_metrics(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a `metrics.csv`, also one that is still being written (an unfinished line is left out).

    Returns:
      Column name -> array with one entry per row: f64, NaN where the cell is empty; `kind` is text.
    Raises:
      ConfigError: there is no such file.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise config.ConfigError(
            f"metrics: cannot read {str(path)!r} ({error.strerror}); give the metrics.csv of a run"
        ) from error
    finished = text[: text.rfind("\n") + 1]
    header, *rows = csv.reader(io.StringIO(finished)) if finished else [list(KEYS)]
    cells = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else {}
    columns = {
        name: np.array([float(cell) if cell else math.nan for cell in cells.get(name, ())])
        for name in header
        if name != "kind"
    }
    return {"kind": np.array(cells.get("kind", ()), dtype=str), **columns}


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` once the block has ended without an error."""
    target = pathlib.Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """A nested value made of what JSON has: arrays become lists, NaN and infinity become None."""
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
    """A Python scalar; an f32 becomes the shortest decimal that rounds to it (0.1)."""
    if value is None or isinstance(value, str | bool | int):
        return value
    number = np.asarray(value)[()]
    return float(str(number)) if number.dtype == np.float32 else number.item()


def check_sizes(directory: pathlib.Path, sizes: Sequence[int], columns: Sequence[str]) -> None:
    """Raises: ConfigError where rows that a checkpoint counts on are gone, or of other columns."""
    for name, size in zip(_METRICS, sizes, strict=True):
        path = directory / name
        if not path.is_file() or path.stat().st_size < size:
            raise config.ConfigError(
                f"resume: {str(path)!r} is missing or shorter than when the checkpoint was made "
                f"({size} bytes); bring it back, or remove the newest folder in `checkpoints`"
            )
    with (directory / _METRICS[0]).open(encoding="utf-8") as file:
        found = file.readline().rstrip("\n").split(",")
    if found != list(columns):
        raise config.ConfigError(
            f"resume: {str(directory / _METRICS[0])!r} has other columns than this version writes; "
            "go on with the version of manifest.json"
        )


def _cut(directory: pathlib.Path, sizes: Sequence[int]) -> None:
    """Drops the rows after a checkpoint."""
    for name, size in zip(_METRICS, sizes, strict=True):
        os.truncate(directory / name, size)


def _refuse_used(directory: pathlib.Path) -> None:
    for name in _METRICS:
        if (directory / name).exists():
            raise config.ConfigError(
                f"run directory: {str(directory)!r} already has {name} of another run; "
                "choose another hydra.run.dir"
            )
