"""Checkpoints of runs that share a program: a folder with one subfolder per checkpoint.

Orbax manages the folder: it writes in the background, renames a complete checkpoint into place and
deletes old ones. A checkpoint is `meta.json` and `arrays.npz`, readable with NumPy alone. Every
process writes its own; in Orbax's own format only process 0 would write host arrays.
"""

import contextlib
import errno
import functools
import json
import pathlib
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import filelock
import numpy as np

from qmix_jax import config
from qmix_jax.console import progress
from qmix_jax.runs import parameters, storage

FOLDER = "checkpoints"
META, ARRAYS = "meta.json", "arrays.npz"
_FORMAT = 2
_DISK_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO
)  # fmt: skip


class SavedCheckpoint(NamedTuple):
    """A complete checkpoint on disk.

    Attributes:
      path: its folder.
      step: env steps of a member, summed over slices, or over all programs of a halving.
      meta: contents of `meta.json`.
    """

    path: pathlib.Path
    step: int
    meta: dict[str, Any]

    def load(self) -> dict[str, np.ndarray]:
        """Returns name -> array. Raises: ConfigError if damaged."""
        # Opened here: NumPy does not close a file that it cannot read.
        with (
            _explain_damage(self.path),
            (self.path / "default" / ARRAYS).open("rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):
            return {name: archive[name] for name in archive.files}


class CheckpointStore(contextlib.AbstractContextManager["CheckpointStore"]):
    """Writes the checkpoints of a run directory and locks it; one process at a time."""

    def __init__(
        self, run: pathlib.Path, settings: config.CheckpointConfig, note: Callable[[str], None]
    ) -> None:
        """`run`: an existing run directory; `note` prints a line."""
        self.path = run / FOLDER
        self._settings = settings
        self._note = note
        self._saved_at = -np.inf
        self._saving: int | None = None
        self._stack = contextlib.ExitStack()
        self._manager: Any = None

    def __enter__(self) -> "CheckpointStore":
        """Raises: ConfigError if another process trains here, or the folder is not writable."""
        self._stack.enter_context(lock(self.path.parent))
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self.wait()
            self._close()

    def due(self, step: int, last: bool) -> bool:
        """Whether to save now: `checkpoint.every_s` has passed, or this is the `last` one."""
        if last:
            self.wait()  # it may be the one being written
        if not self._settings.enabled or step in complete_steps(self.path):
            return False
        busy = self._manager is not None and self._manager.is_saving_in_progress()
        elapsed = time.monotonic() - self._saved_at
        return last or (elapsed >= self._settings.every_s and not busy)

    def save(self, step: int, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a checkpoint in the background; the arrays must no longer change.

        If it cannot be written, a line is printed, training continues, and the last complete
        checkpoint remains.
        """
        self.wait()
        from qmix_jax.runs import _orbax

        self._saving, self._saved_at = step, time.monotonic()
        try:
            if self._manager is None:
                self._stack.enter_context(_orbax.quiet())
                self._remove_incomplete()
                self._manager = _orbax.manager(self.path, self._settings.keep)
            write = functools.partial(_write, {"format": _FORMAT, **meta}, dict(arrays))
            self._manager.save(step, args=_orbax.FolderArgs(write), force=True)
        except OSError as error:
            self._report_failure(error)

    def wait(self) -> None:
        """Waits until the checkpoint being written is complete or has failed."""
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
        except OSError as error:
            self._report_failure(error)

    def remove_old(self) -> None:
        """Removes all but the last checkpoint after training: replays are no longer needed."""
        self.wait()
        if self._settings.replay == "running":
            for step in complete_steps(self.path)[:-1]:
                shutil.rmtree(self.path / str(step), ignore_errors=True)

    def _report_failure(self, error: OSError) -> None:
        """Reports a failed checkpoint and removes its files, which may fill the disk."""
        steps = complete_steps(self.path)
        last = f"the last one is of env step {steps[-1]:,}" if steps else "there is no earlier one"
        self._note(
            f"checkpoint: cannot write env step {self._saving:,} to {str(self.path)!r} "
            f"({error.strerror or error}); {last}; training continues"
        )
        self._close()
        self._remove_incomplete()

    def _remove_incomplete(self) -> None:
        """Removes incomplete checkpoints, left by a killed process or a full disk."""
        for path in self.path.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)

    def _close(self) -> None:
        if self._manager is not None:
            self._manager.close()
        self._manager = None


def _write(meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray], folder: pathlib.Path) -> None:
    (folder / META).write_text(json.dumps(meta), encoding="utf-8")
    with (folder / ARRAYS).open("wb") as file:
        parameters.write_arrays(file, arrays)


class WriteError(RuntimeError):
    """The files of a run cannot be written; those written so far remain."""


@contextlib.contextmanager
def explain_write_errors(path: pathlib.Path, runs: Sequence[pathlib.Path]) -> Iterator[None]:
    """Turns errors of a full or missing disk into one line with the command to resume.

    Args:
      path: directory of the run or sweep.
      runs: run directories, in training order.
    Raises: WriteError.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        steps = list(filter(None, (complete_steps(run / FOLDER) for run in runs)))
        saved = f" and the checkpoint of env step {steps[-1][-1]:,}" if steps else ""
        raise WriteError(
            f"run directory: cannot write to {str(path)!r} ({error.strerror}); the metrics so far"
            f"{saved} remain; fix the disk, then resume: qmix-jax train resume={path}"
        ) from error


def newest(folder: pathlib.Path) -> SavedCheckpoint | None:
    """Returns the newest checkpoint of a folder, if any. Raises: ConfigError if damaged."""
    steps = complete_steps(folder)
    if not steps:
        return None
    path = folder / str(steps[-1])
    with _explain_damage(path):
        meta = json.loads((path / "default" / META).read_text(encoding="utf-8"))
        version = meta["format"]
    if version != _FORMAT:
        raise config.ConfigError(
            f"checkpoint: {str(path)!r} has format {version}, but this version reads format "
            f"{_FORMAT}; resume with the version of qmix_jax that wrote it (see manifest.json), or "
            "start again in another directory"
        )
    return SavedCheckpoint(path, steps[-1], meta)


@contextlib.contextmanager
def _explain_damage(path: pathlib.Path) -> Iterator[None]:
    """Turns read errors into one line that names the previous checkpoint, if any."""
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        steps = [step for step in complete_steps(path.parent) if step < int(path.name)]
        fix = f"resume from env step {steps[-1]:,}, the one before" if steps else "start again"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise config.ConfigError(
            f"checkpoint: {str(path)!r} is damaged or of another program ({reason}); remove that "
            f"folder to {fix}"
        ) from error


def complete_steps(folder: pathlib.Path) -> list[int]:
    """Returns the steps of all complete checkpoints, ascending."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(path.name) for path in paths if path.name.isdecimal())


@contextlib.contextmanager
def lock(run: pathlib.Path) -> Iterator[None]:
    """Locks a run directory against other training processes. Raises: ConfigError.

    The kernel releases the lock when the process ends, even if it is killed.
    """
    path = run / FOLDER
    try:
        path.mkdir(parents=True, exist_ok=True)
        file_lock = filelock.FileLock(path / ".lock")
        file_lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise storage.InUseError(
            f"run directory: another process is training in {str(run)!r}; wait until it ends, or "
            "choose another hydra.run.dir"
        ) from error
    except OSError as error:
        raise config.ConfigError(
            f"run directory: cannot write to {str(path)!r} ({error.strerror}); choose another "
            "hydra.run.dir, or make it writable"
        ) from error
    try:
        yield
    finally:
        file_lock.release()


def describe(settings: config.CheckpointConfig, replay: int) -> str:
    """Describes checkpoints in a line; `replay`: bytes of all members' replay."""
    if not settings.enabled:
        return "no checkpoints: an interrupted run cannot be resumed (checkpoint.enabled=false)"
    size = f"up to {progress.human(replay)}B of replay in each"
    if settings.replay == "never":
        size = "without the replay"
    return f"checkpoint every {settings.every_s:g} s, keeping the newest {settings.keep}, {size}"
