"""One group of a sweep as a job of its own: what submitit pickles, calls, and starts over."""

import importlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qmix_jax import api, config
from qmix_jax.runtime import record, scores, sinks, sweep_index


class Ended(NamedTuple):
    """How a run ended: what of an `api.Result` is worth sending back."""

    config: config.ExperimentConfig
    objective: float
    interrupted: bool
    failures: Mapping[int, str]
    pruned: bool = False


class Outcome(NamedTuple):
    """What a group came to.

    Attributes:
      runs: one per job, in their order.
      moved: where the half-written run directories of earlier attempts are now.
      compile_s, train_s, eval_s: seconds of the last attempt; NaN where nothing was left to train.
    """

    runs: tuple[Ended, ...]
    moved: tuple[pathlib.Path, ...]
    compile_s: float
    train_s: float
    eval_s: float


class GroupTask:
    """Trains the jobs of one group; submitit calls it in a process of its own.

    A call may follow one that was cut short (pre-emption, a time limit, a lost node). Runs cannot
    go on in the middle: those that had ended are kept, half-written run directories are moved
    aside to `<directory>.preempted-<n>`, and their runs start over.
    """

    def __init__(self, jobs: Sequence[api.Job], directory: pathlib.Path) -> None:
        """Keeps what a call needs; all of it can be pickled.

        Args:
          jobs: in run directories that held nothing before the first call.
          directory: where the group's own `index.json` is kept.
        """
        self._jobs = tuple(jobs)
        self._directory = directory

    def __call__(self) -> Outcome:
        """Trains what has not ended yet.

        Raises: ConfigError for what this machine cannot honour, for example its memory.
        """
        kept = {i: ended for i, job in enumerate(self._jobs) if (ended := _ended(job))}
        left = [i for i in range(len(self._jobs)) if i not in kept]
        for i in kept:
            print(f"kept: {_path(self._jobs[i])} had ended", flush=True)
        moved = tuple(
            aside for i in left if (aside := sinks.move_aside(_path(self._jobs[i]), "preempted"))
        )
        for path in moved:
            print(f"starting over: what was half-written is in {path}", flush=True)
        seconds = dict.fromkeys(("compile_s", "train_s", "eval_s"), math.nan)
        if left:
            results = api.train_many([self._jobs[i] for i in left], self._directory)
            kept |= {i: _summary(result) for i, result in zip(left, results, strict=True)}
            seconds = self._seconds()
        return Outcome(tuple(kept[i] for i in range(len(self._jobs))), moved, **seconds)

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue after a pre-emption or a time-out: the same.

        Returns:
          A `submitit.helpers.DelayedSubmission`.
        """
        return engine().helpers.DelayedSubmission(self)

    def _seconds(self) -> dict[str, float]:
        index = json.loads((self._directory / sweep_index.NAME).read_text(encoding="utf-8"))
        (group,) = index["groups"]
        return {name: group[name] for name in ("compile_s", "train_s", "eval_s")}


def engine() -> Any:
    """The package `submitit`. Raises: ConfigError where the extra is not installed."""
    try:
        return importlib.import_module("submitit")
    except ImportError as error:
        raise config.ConfigError(
            "launcher: hydra/launcher=fused_slurm and fused_local need submitit, which is not "
            "installed; install the extra: pip install 'qmix-jax[slurm]'"
        ) from error


def _path(job: api.Job) -> pathlib.Path:
    assert job.directory is not None
    return pathlib.Path(job.directory)


def _ended(job: api.Job) -> Ended | None:
    """How the run in the job's directory ended; None where none has."""
    path = _path(job)
    reached = record.reached(path)
    if reached is None or reached["interrupted"]:
        return None
    objective = scores.Objective().of(sinks.read_metrics(path / "metrics.csv"))
    failures = {int(member): text for member, text in reached["failures"].items()}
    return Ended(job.config, objective, interrupted=False, failures=failures)


def _summary(result: api.Result | None) -> Ended:
    if result is None:
        raise RuntimeError("interrupted before training began")
    return Ended(result.config, result.objective, result.interrupted, dict(result.failures))
