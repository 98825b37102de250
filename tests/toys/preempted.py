"""A group that a scheduler preempts once, by a signal."""

import os
import signal
from typing import Any

from qmix_jax.cli import group_task
from qmix_jax.runs import record


class Preempted(group_task.GroupTask):
    """Its first attempt ends after the first run, and before the end of the second."""

    def __call__(self) -> group_task.GroupResult:
        """Trains the runs that have not ended."""
        self._directory.mkdir(parents=True, exist_ok=True)
        attempted = self._directory / "attempted"
        if not attempted.exists():
            attempted.touch()
            _preempt_before_second_end()
        return super().__call__()


def _preempt_before_second_end() -> None:
    finish, ended = record.finish, []

    def finish_or_be_preempted(*arguments: Any) -> None:
        if ended:
            os.kill(os.getpid(), signal.SIGUSR2)
        ended.append(arguments)
        finish(*arguments)

    record.finish = finish_or_be_preempted
