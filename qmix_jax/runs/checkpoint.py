"""Checkpoints of runs that share a program: a folder with one subfolder per checkpoint.

Orbax manages the folder: it writes in the background, renames a complete checkpoint into place and
deletes old ones. A checkpoint itself is `meta.json` and `arrays.npz`, which NumPy reads alone.
Every process writes its own; Orbax's own format would write host arrays in process 0 only.
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
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class SavedCheckpoint(NamedTuple):
    """Attributes:
    path: its folder.
    step: env steps of a member, with those of earlier slices, or of all programs of a halving.
    meta: what JSON has.
    """

    path: pathlib.Path
    step: int
    meta: dict[str, Any]

    def load(self) -> dict[str, np.ndarray]:
        """Name -> array. Raises: ConfigError if damaged."""
        # NumPy leaves a file open that it cannot read.
        with (
            _damage_told(self.path),
            (self.path / "default" / ARRAYS).open("rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):
            return {name: archive[name] for name in archive.files}


class CheckpointStore(contextlib.AbstractContextManager["CheckpointStore"]):
    """A folder of checkpoints, for one process at a time; nothing where they are switched off."""

    def __init__(
        self, run: pathlib.Path, settings: config.CheckpointConfig, note: Callable[[str], None]
    ) -> None:
        """`run`: an existing run directory; `note` takes lines for the user."""
        self.path = run / FOLDER
        self._settings = settings
        self._note = note
        self._saved_at = -np.inf
        self._saving: int | None = None
        self._stack = contextlib.ExitStack()
        self._manager: Any = None

    def __enter__(self) -> "CheckpointStore":
        """Raises: ConfigError where another process trains here, or nothing can be written."""
        self._stack.enter_context(lock(self.path.parent))
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self.finish()
            self._close()

    def wants(self, step: int, last: bool) -> bool:
        """Whether to save now: where it is time for another one, or always the `last` one."""
        if last:
            self.finish()  # it may be this one that is being written
        if not self._settings.enabled or step in whole_steps(self.path):
            return False
        busy = self._manager is not None and self._manager.is_saving_in_progress()
        late = time.monotonic() - self._saved_at >= self._settings.every_s
        return last or (late and not busy)

    def save(self, step: int, meta: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a checkpoint in the background; the arrays must not change any more.

        One that cannot be written is a line for the user: training goes on, and the last whole one
        stays.
        """
        self.finish()
        from qmix_jax.runs import _orbax

        self._saving, self._saved_at = step, time.monotonic()
        try:
            if self._manager is None:
                self._stack.enter_context(_orbax.quiet())
                self._drop_unfinished()
                self._manager = _orbax.manager(self.path, self._settings.keep)
            write = functools.partial(_write, {"format": _FORMAT, **meta}, dict(arrays))
            self._manager.save(step, args=_orbax.FolderArgs(write), force=True)
        except OSError as error:
            self._give_up(error)

    def finish(self) -> None:
        """Waits until the last one is whole, or known to be none."""
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
        except OSError as error:
            self._give_up(error)

    def end(self) -> None:
        """Training is done: of earlier checkpoints, with replays that nobody needs, none stays."""
        self.finish()
        if self._settings.replay == "running":
            for step in whole_steps(self.path)[:-1]:
                shutil.rmtree(self.path / str(step), ignore_errors=True)

    def _give_up(self, error: OSError) -> None:
        """Says so, and gives a full disk its space back."""
        steps = whole_steps(self.path)
        kept = f"the one of env step {steps[-1]:,} is kept" if steps else "there is none yet"
        self._note(
            f"checkpoint: cannot write that of env step {self._saving:,} in {str(self.path)!r} "
            f"({error.strerror or error}); {kept}, and training goes on"
        )
        self._close()
        self._drop_unfinished()

    def _drop_unfinished(self) -> None:
        """What a killed process or a full disk left of a checkpoint."""
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
    """A run's files can no longer be written; what was written is kept."""


@contextlib.contextmanager
def telling_what_is_kept(path: pathlib.Path, runs: Sequence[pathlib.Path]) -> Iterator[None]:
    """Around training: a disk that is full or gone becomes one line on how to go on.

    Args:
      path: of the run or sweep.
      runs: run directories, in the order in which they train.
    Raises:
      WriteError: the disk did not take what the block wrote.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        found = list(filter(None, (whole_steps(run / FOLDER) for run in runs)))
        kept = f" and the checkpoint of env step {found[-1][-1]:,}" if found else ""
        raise WriteError(
            f"run directory: cannot write to {str(path)!r} ({error.strerror}); its rows so far"
            f"{kept} are kept; mend that and go on: qmix-jax train resume={path}"
        ) from error


def newest(folder: pathlib.Path) -> SavedCheckpoint | None:
    """The newest checkpoint of a folder, None if there is none. Raises: ConfigError if damaged."""
    steps = whole_steps(folder)
    if not steps:
        return None
    path = folder / str(steps[-1])
    with _damage_told(path):
        meta = json.loads((path / "default" / META).read_text(encoding="utf-8"))
        found = meta["format"]
    if found != _FORMAT:
        raise config.ConfigError(
            f"checkpoint: {str(path)!r} has format {found}, and this version reads format "
            f"{_FORMAT}; continue with the version of qmix_jax that wrote it (manifest.json names "
            "it), or start again in another directory"
        )
    return SavedCheckpoint(path, steps[-1], meta)


@contextlib.contextmanager
def _damage_told(path: pathlib.Path) -> Iterator[None]:
    """Whatever cannot be read is one line that says what is left."""
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        steps = [step for step in whole_steps(path.parent) if step < int(path.name)]
        before = f"go on from env step {steps[-1]:,}, the one before" if steps else "begin anew"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise config.ConfigError(
            f"checkpoint: {str(path)!r} is damaged or not of this program ({reason}); remove that "
            f"folder to {before}"
        ) from error


def whole_steps(folder: pathlib.Path) -> list[int]:
    """Steps of the checkpoints that were written to their end, rising."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(path.name) for path in found if path.name.isdecimal())


@contextlib.contextmanager
def lock(run: pathlib.Path) -> Iterator[None]:
    """Only one process at a time trains into a run directory. Raises: ConfigError.

    The kernel frees the lock when its process ends, however it does.
    """
    path = run / FOLDER
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(path / ".lock")
        held.acquire(timeout=0)
    except filelock.Timeout as error:
        raise storage.InUseError(
            f"run directory: another process is training in {str(run)!r}; wait for its end, or "
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
        held.release()


def cost(settings: config.CheckpointConfig, replay: int) -> str:
    """A line on what checkpoints take, from the bytes of all members' replay."""
    if not settings.enabled:
        return "no checkpoints: a run cut short cannot go on (checkpoint.enabled=false)"
    held = f"up to {progress.human(replay)}B of replay in each"
    if settings.replay == "never":
        held = "without the replay"
    return f"checkpoint every {settings.every_s:g} s, the newest {settings.keep} kept, {held}"
