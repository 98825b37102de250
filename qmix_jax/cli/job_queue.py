"""Groups of a sweep as jobs of submitit: handed over, watched to their end, left or cancelled."""

import contextlib
import io
import time
from collections.abc import Sequence
from typing import Any

from qmix_jax import config
from qmix_jax.cli import group_task
from qmix_jax.runs import sweep_index

_POLL_S = 1.0
_PATIENCE_S = 30.0
"""How long a cancelled job may take to end before it is told again: where Ctrl-C is ignored at
first (as in a shell's background) a signal that comes before the job listens is lost.
"""


class JobQueue:
    """Jobs of a sweep, by the number of their group.

    Attributes:
      outcomes: of the groups that came back.
      failures: what became of the others: the first line of the error, and where its log is.
    """

    def __init__(
        self,
        executor: Any,
        tasks: Sequence[group_task.GroupTask],
        names: Sequence[str],
        index: sweep_index.SweepIndex,
        at_once: int,
    ) -> None:
        """Hands nothing over yet.

        Args:
          executor: a `submitit.AutoExecutor`.
          tasks: one per group.
          names: what to call each group on screen.
          index: of the sweep; kept up to date.
          at_once: groups that may be in submitit's hands at a time.
        """
        self.outcomes: dict[int, group_task.GroupResult] = {}
        self.failures: dict[int, str] = {}
        self._executor = executor
        self._tasks = tasks
        self._names = names
        self._index = index
        self._at_once = at_once
        self._waiting = list(range(len(tasks)))
        self._running: dict[int, Any] = {}
        self._states: dict[int, str] = {}

    def wait(self) -> None:
        """Hands all groups over and returns when the last one has ended.

        Raises: ConfigError where the scheduler refuses a job.
        """
        self._submit()
        while self._running:
            time.sleep(_POLL_S)
            for number in tuple(self._running):
                self._look(number)
            self._submit()

    def leave(self) -> None:
        """Says how to go on without this process: SLURM's jobs do not need it."""
        ids = [job.job_id for job in self._running.values()]
        print(f"left running: {' '.join(ids)}; their runs are written as usual")
        print(f"  look    squeue -j {','.join(ids)}")
        print(f"  cancel  scancel {' '.join(ids)}")
        print(f"  {self._index.path} stays as it is now", flush=True)

    def cancel(self) -> None:
        """Ends the jobs that are running; half-written run directories stay as they are."""
        for job in self._running.values():
            job.cancel()
        for number, job in self._running.items():
            _await_end(job)
            self._index.stop(number, "cancelled")
            self._say(number, "cancelled")

    def _submit(self) -> None:
        free = self._at_once - len(self._running)
        numbers, self._waiting = self._waiting[:free], self._waiting[free:]
        if not numbers:
            return
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats there what it raises
                jobs = self._executor.submit_array([self._tasks[i] for i in numbers])
        except RuntimeError as error:  # submitit's own, with what sbatch said
            reason = " ".join(str(error).split())
            for number in numbers:
                self._index.stop(number, "refused", reason)
            raise config.ConfigError(
                f"launcher: the jobs were refused: {reason}; change hydra.launcher.*"
            ) from error
        for number, job in zip(numbers, jobs, strict=True):
            self._running[number] = job
            self._index.submit(number, job.job_id, [job.paths.stdout, job.paths.stderr])
            self._say(number, f"submitted as {job.job_id}, log {job.paths.stdout}")

    def _look(self, number: int) -> None:
        job = self._running[number]
        if job.done():
            del self._running[number]
            self._end(number, job)
            return
        state = job.state
        if state not in (self._states.get(number), "UNKNOWN"):
            self._states[number] = state
            self._say(number, state.lower())
            if state == "RUNNING":
                self._index.start(number)

    def _end(self, number: int, job: Any) -> None:
        error = job.exception()
        if error is not None:
            line = first_line(str(error))
            self.failures[number] = f"{self._names[number]}: {line}; log {job.paths.stderr}"
            self._index.stop(number, "failed", line)
            self._say(number, f"failed: {line}")
            return
        outcome: group_task.GroupResult = job.result()
        self.outcomes[number] = outcome
        self._index.finish(number, outcome.runs, outcome)
        self._say(number, "finished")

    def _say(self, number: int, text: str) -> None:
        print(f"{self._names[number]}: {text}", flush=True)


def first_line(text: str) -> str:
    """The line that names the exception of the last traceback in a text, of a `ConfigError` what it
    says; without a traceback, the first two lines.
    """
    lines = text.splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith('  File "')]
    if not frames:
        return " ".join(lines[:2])
    rest = lines[frames[-1] + 1 :]
    line = next((line for line in rest if line and not line.startswith(" ")), lines[0])
    return line.removeprefix(f"{config.__name__}.{config.ConfigError.__name__}: ")


def _await_end(job: Any) -> None:
    """Waits for a cancelled job, telling it again from time to time."""
    told = time.monotonic()
    while not job.done():
        time.sleep(_POLL_S)
        if time.monotonic() - told > _PATIENCE_S:
            job.cancel()
            told = time.monotonic()
