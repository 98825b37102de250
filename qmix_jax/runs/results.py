"""What a run came to, just trained or read from its directory."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from qmix_jax import config, plan
from qmix_jax.console import learning_curves
from qmix_jax.program import Program, build
from qmix_jax.runs import jobs, metadata, outcomes, record, storage
from qmix_jax.runs.scores import Objective


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
      config: the configuration.
      plan: its arithmetic.
      directory: the run directory with `config.yaml`, `manifest.json`, `metrics.csv`,
        `metrics.jsonl`, `parameters_final.npz`, `parameters_best.npz` and `curves.png`.
      metrics: columns of `metrics.csv` -> array with one entry per row.
      parameters, best_parameters: nested dicts of numpy arrays, member axis first.
      interrupted: ended early by Ctrl-C.
      failures: member -> why it was frozen: its loss or gradient was not finite.
      objective: one number to compare settings by, NaN where nothing was evaluated.
      pruned: ended early by successive halving.
      stopped: the stop rule (`stop.*`) that ended it, with what it saw; None where none did.
    """

    config: config.ExperimentConfig
    plan: plan.Plan
    directory: pathlib.Path
    metrics: dict[str, np.ndarray]
    parameters: Any
    best_parameters: Any
    interrupted: bool
    failures: Mapping[int, str]
    objective: float
    pruned: bool = False
    stopped: str | None = None


def make(
    job: jobs.Job, outcome: outcomes.Outcome, program: Program, objective: Objective
) -> Result:
    """The result of a job, from its outcome and the metrics in its directory."""
    columns = storage.read_metrics(job.path / "metrics.csv")
    return Result(
        config=job.config,
        plan=program.plan,
        directory=job.path,
        metrics=columns,
        parameters=outcome.parameters,
        best_parameters=outcome.best_parameters,
        interrupted=outcome.interrupted,
        failures=outcome.failures,
        objective=objective.score(columns),
        pruned=outcome.pruned,
        stopped=outcome.stopped,
    )


def load_run(
    directory: str | os.PathLike[str],
    objective: Objective = Objective(),  # noqa: B008
) -> Result:
    """What a run came to, from its directory.

    Args:
      objective: what `Result.objective` is.
    Returns:
      The `Result` that training returned.
    Raises:
      ConfigError: not a run directory, one of a run that has not ended or of an older version.
    """
    path = pathlib.Path(directory)
    cfg = metadata.read_run_config(path)
    return make(jobs.Job(cfg, path), record.read_outcome(path), build(cfg), objective)


def show(result: Result) -> None:
    """Prints the summary of a single run."""
    manifest = metadata.read_manifest(result.directory)
    reached = manifest["reached"]
    totals = learning_curves.Totals(
        env_steps=reached["env_steps"],
        gradient_steps=reached["gradient_steps"],
        compile_s=manifest["compile_s"]["total"],
        train_s=reached["train_s"],
        eval_s=reached["eval_s"],
    )
    if result.stopped:
        print(f"ended by {result.stopped}")
    if result.interrupted:
        print("interrupted: the results are those of an unfinished run")
    if result.interrupted and result.config.checkpoint.enabled:
        print(f"to resume: qmix-jax train resume={result.directory}")
    learning_curves.summary(
        result.metrics, totals, [result.directory / name for name in record.FILES]
    )
