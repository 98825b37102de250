"""One group of a sweep as a job of submitit, which pickles, calls and requeues it."""

import importlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qmix_jax import api, config
from qmix_jax.runs import sweep_index


class JobResult(NamedTuple):
    """The part of an `api.Result` that a job returns."""

    config: config.ExperimentConfig
    objective: float
    interrupted: bool
    failures: Mapping[int, str]
    pruned: bool = False
    stopped: str | None = None


class GroupResult(NamedTuple):
    """Result of a group.

    Attributes:
      runs: one per job, in order.
      compile_s, train_s, eval_s: seconds of the last attempt; NaN if nothing was left to train.
    """

    runs: tuple[JobResult, ...]
    compile_s: float
    train_s: float
    eval_s: float


class GroupTask:
    """Trains the jobs of one group in its own process.

    A call after a pre-emption, a time-out or a lost node resumes from the last checkpoint.
    """

    def __init__(self, jobs: Sequence[api.Job], directory: pathlib.Path) -> None:
        """Prepares the jobs to resume if called again.

        Args:
          jobs: the runs to train.
          directory: folder of the group's `index.json`.
        """
        self._jobs = tuple(
            job._replace(config=job.config.model_copy(update={"resume": "auto"})) for job in jobs
        )
        self._directory = directory

    def __call__(self) -> GroupResult:
        """Trains the jobs that have not ended.

        Raises: ConfigError for a setting that this machine cannot honour, such as its memory.
        """
        results = api.train_many(self._jobs, self._directory)
        return GroupResult(tuple(map(_summary, results)), **self._seconds())

    def checkpoint(self) -> Any:
        """Returns the `submitit.helpers.DelayedSubmission` to requeue after a pre-emption or a
        time-out: the task itself.
        """
        return import_submitit().helpers.DelayedSubmission(self)

    def _seconds(self) -> dict[str, float]:
        index = json.loads((self._directory / sweep_index.INDEX_FILE).read_text(encoding="utf-8"))
        (group,) = index["groups"]
        times = {name: group[name] for name in ("compile_s", "train_s", "eval_s")}
        return {name: math.nan if time is None else time for name, time in times.items()}


def import_submitit() -> Any:
    """Returns the module `submitit`. Raises: ConfigError if the extra is not installed."""
    try:
        return importlib.import_module("submitit")
    except ImportError as error:
        raise config.ConfigError(
            "launcher: hydra/launcher=fused_slurm and fused_local need submitit, which is not "
            "installed; install the extra: pip install 'qmix-jax[slurm]'"
        ) from error


def _summary(result: api.Result | None) -> JobResult:
    if result is None:
        raise RuntimeError("interrupted before training began")
    return JobResult(
        config=result.config,
        objective=result.objective,
        interrupted=result.interrupted,
        failures=dict(result.failures),
        stopped=result.stopped,
    )
