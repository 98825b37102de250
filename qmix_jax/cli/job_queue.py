"""Submits the groups of a sweep to submitit, and waits for, leaves or cancels them."""

import contextlib
import io
import time
from collections.abc import Sequence
from typing import Any

from qmix_jax import config
from qmix_jax.cli import group_task
from qmix_jax.runs import sweep_index

_POLL_S = 1.0
_RETRY_S = 30.0
"""Seconds after which a cancelled job that still runs is cancelled again: SIGINT may be ignored
until the job handles it, as in a shell's background, and is then lost.
"""


class JobQueue:
    """Jobs of a sweep, by the number of their group.

    Attributes:
      outcomes: results of the groups that finished.
      failures: of the others, the first line of the error and the path of the log.
    """

    def __init__(
        self,
        executor: Any,
        tasks: Sequence[group_task.GroupTask],
        names: Sequence[str],
        index: sweep_index.SweepIndex,
        max_submitted: int,
    ) -> None:
        """Submits nothing yet.

        Args:
          executor: a `submitit.AutoExecutor`.
          tasks: one per group.
          names: display names of the groups.
          index: the sweep's; updated as groups change state.
          max_submitted: number of groups that may be submitted at a time.
        """
        self.outcomes: dict[int, group_task.GroupResult] = {}
        self.failures: dict[int, str] = {}
        self._executor = executor
        self._tasks = tasks
        self._names = names
        self._index = index
        self._max_submitted = max_submitted
        self._waiting = list(range(len(tasks)))
        self._running: dict[int, Any] = {}
        self._states: dict[int, str] = {}

    def wait(self) -> None:
        """Submits all groups and returns when the last one has ended.

        Raises: ConfigError if the scheduler refuses a job.
        """
        self._submit()
        while self._running:
            time.sleep(_POLL_S)
            for number in tuple(self._running):
                self._poll(number)
            self._submit()

    def leave(self) -> None:
        """Prints how to watch or cancel the jobs; SLURM runs them without this process."""
        ids = [job.job_id for job in self._running.values()]
        print(f"still running: {' '.join(ids)}; these jobs write complete run directories")
        print(f"  watch   squeue -j {','.join(ids)}")
        print(f"  cancel  scancel {' '.join(ids)}")
        print(f"  {self._index.path} is no longer updated", flush=True)

    def cancel(self) -> None:
        """Cancels the running jobs; unfinished run directories stay."""
        for job in self._running.values():
            job.cancel()
        for number, job in self._running.items():
            _wait_cancelled(job)
            self._index.stop(number, "cancelled")
            self._print(number, "cancelled")

    def _submit(self) -> None:
        free = self._max_submitted - len(self._running)
        numbers, self._waiting = self._waiting[:free], self._waiting[free:]
        if not numbers:
            return
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit also prints what it raises
                jobs = self._executor.submit_array([self._tasks[i] for i in numbers])
        except RuntimeError as error:  # with the output of sbatch
            reason = " ".join(str(error).split())
            for number in numbers:
                self._index.stop(number, "refused", reason)
            raise config.ConfigError(
                f"launcher: the jobs were refused: {reason}; change hydra.launcher.*"
            ) from error
        for number, job in zip(numbers, jobs, strict=True):
            self._running[number] = job
            self._index.submit(number, job.job_id, [job.paths.stdout, job.paths.stderr])
            self._print(number, f"submitted as {job.job_id}, log {job.paths.stdout}")

    def _poll(self, number: int) -> None:
        job = self._running[number]
        if job.done():
            del self._running[number]
            self._finish(number, job)
            return
        state = job.state
        if state not in (self._states.get(number), "UNKNOWN"):
            self._states[number] = state
            self._print(number, state.lower())
            if state == "RUNNING":
                self._index.start(number)

    def _finish(self, number: int, job: Any) -> None:
        error = job.exception()
        if error is not None:
            line = first_line(str(error))
            self.failures[number] = f"{self._names[number]}: {line}; log {job.paths.stderr}"
            self._index.stop(number, "failed", line)
            self._print(number, f"failed: {line}")
            return
        outcome: group_task.GroupResult = job.result()
        self.outcomes[number] = outcome
        self._index.finish(number, outcome.runs, outcome)
        self._print(number, "finished")

    def _print(self, number: int, text: str) -> None:
        print(f"{self._names[number]}: {text}", flush=True)


def first_line(text: str) -> str:
    """Returns the exception line of the last traceback in a text, without the type for a
    `ConfigError`; the first two lines if there is no traceback.
    """
    lines = text.splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith('  File "')]
    if not frames:
        return " ".join(lines[:2])
    after = lines[frames[-1] + 1 :]
    line = next((line for line in after if line and not line.startswith(" ")), lines[0])
    return line.removeprefix(f"{config.__name__}.{config.ConfigError.__name__}: ")


def _wait_cancelled(job: Any) -> None:
    cancelled = time.monotonic()
    while not job.done():
        time.sleep(_POLL_S)
        if time.monotonic() - cancelled > _RETRY_S:
            job.cancel()
            cancelled = time.monotonic()
