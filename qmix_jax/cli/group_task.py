"""One group of a sweep as a job of its own: what submitit pickles, calls, and calls again."""

import importlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qmix_jax import api, config
from qmix_jax.runs import sweep_index


class JobResult(NamedTuple):
    """How a run ended: what of an `api.Result` is worth sending back."""

    config: config.ExperimentConfig
    objective: float
    interrupted: bool
    failures: Mapping[int, str]
    pruned: bool = False
    stopped: str | None = None


class GroupResult(NamedTuple):
    """What a group came to.

    Attributes:
      runs: one per job, in their order.
      compile_s, train_s, eval_s: seconds of the last attempt; NaN where nothing was left to train.
    """

    runs: tuple[JobResult, ...]
    compile_s: float
    train_s: float
    eval_s: float


class GroupTask:
    """Trains the jobs of one group; submitit calls it in a process of its own.

    A call may follow one that was cut short (pre-emption, a time limit, a lost node): it goes on
    from the last checkpoint.
    """

    def __init__(self, jobs: Sequence[api.Job], directory: pathlib.Path) -> None:
        """Keeps what a call needs; all of it can be pickled.

        Args:
          jobs: what to train.
          directory: where the group's own `index.json` is kept.
        """
        self._jobs = tuple(
            job._replace(config=job.config.model_copy(update={"resume": "auto"})) for job in jobs
        )
        self._directory = directory

    def __call__(self) -> GroupResult:
        """Trains what has not ended yet.

        Raises: ConfigError for what this machine cannot honour, for example its memory.
        """
        results = api.train_many(self._jobs, self._directory)
        return GroupResult(tuple(map(_summary, results)), **self._seconds())

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue after a pre-emption or a time-out: the same.

        Returns:
          A `submitit.helpers.DelayedSubmission`.
        """
        return engine().helpers.DelayedSubmission(self)

    def _seconds(self) -> dict[str, float]:
        index = json.loads((self._directory / sweep_index.INDEX_FILE).read_text(encoding="utf-8"))
        (group,) = index["groups"]
        times = {name: group[name] for name in ("compile_s", "train_s", "eval_s")}
        return {name: math.nan if time is None else time for name, time in times.items()}


def engine() -> Any:
    """The package `submitit`. Raises: ConfigError where the extra is not installed."""
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
