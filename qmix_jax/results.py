"""What a run came to, just trained or read from its directory."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from qmix_jax import config, plan
from qmix_jax.program import Program, build
from qmix_jax.runtime import loop, provenance, record, sinks, training
from qmix_jax.runtime.scores import Objective


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


def make(
    job: training.Job, outcome: loop.Outcome, program: Program, objective: Objective
) -> Result:
    """The result of a job, from its outcome and the metrics in its directory."""
    columns = sinks.read_metrics(job.path / "metrics.csv")
    return Result(
        config=job.config,
        plan=program.plan,
        directory=job.path,
        metrics=columns,
        parameters=outcome.parameters,
        best_parameters=outcome.best_parameters,
        interrupted=outcome.interrupted,
        failures=outcome.failures,
        objective=objective.of(columns),
        pruned=outcome.pruned,
    )


def load_run(directory: str | os.PathLike[str]) -> Result:
    """What a run came to, from its directory.

    Returns:
      The `Result` that training returned, its objective the default one.
    Raises:
      ConfigError: not a run directory, or one of a run that has not ended.
    """
    path = pathlib.Path(directory)
    cfg = config.load(provenance.read_config(path / "config.yaml"))
    return make(training.Job(cfg, path, ""), record.read_outcome(path), build(cfg), Objective())
