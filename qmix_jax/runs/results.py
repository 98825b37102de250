"""Result of a run, from training or from its directory."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qmix_jax import config, plan, reprs
from qmix_jax.console import learning_curves, progress
from qmix_jax.program import Program, build
from qmix_jax.runs import jobs, metadata, outcomes, record, storage
from qmix_jax.runs.scores import Objective

if TYPE_CHECKING:
    import pandas as pd

_COUNTERS = ("env_steps", "update", "gradient_step", "seed")


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of a run.

    Attributes:
      config: the configuration.
      plan: derived sizes and counts, for example `n_updates`.
      directory: the run directory with `config.yaml`, `manifest.json`, `metrics.csv`,
        `metrics.jsonl`, `parameters_final.npz`, `parameters_best.npz` and `curves.png`.
      metrics: columns of `metrics.csv` -> array with one entry per row.
      parameters, best_parameters: nested dicts of NumPy arrays, member axis first.
      interrupted: whether a signal (Ctrl-C) or `Session.stop` ended the run early.
      failures: frozen member -> which metric was not finite, and when.
      objective: the score by which settings are compared; NaN if nothing was evaluated.
      pruned: whether successive halving ended the run early.
      stopped: the stop rule (`stop.*`) that ended the run, with its values; None if none did.
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

    def summary(self) -> dict[str, Any]:
        """Fields of `repr`: names, seeds, env steps, final scores and directory."""
        cfg, metrics = self.config, self.metrics
        steps = int(metrics["env_steps"].max()) if len(metrics["env_steps"]) else 0
        fields = {
            "name": cfg.name,
            "env": cfg.env.name,
            "algo": cfg.algo.name,
            "seeds": f"{cfg.seed}..{cfg.seed + cfg.seeds - 1}" if cfg.seeds > 1 else cfg.seed,
            "env_steps": f"{steps:,} of {self.plan.env_steps:,}",
        }
        for name in ("return", "win_rate"):
            values = learning_curves.series(metrics, f"eval/{name}")[1]
            if values.size:
                fields[f"final {name}"] = progress.spread(values[:, -1])
        ended = {
            "interrupted": self.interrupted,
            "pruned": self.pruned,
            "stopped": self.stopped,
            "failures": "; ".join(self.failures.values()),
        }
        fields |= {name: value for name, value in ended.items() if value}
        return {**fields, "objective": self.objective, "directory": self.directory}

    __repr__, _repr_html_ = reprs.text, reprs.html

    def to_pandas(self, kind: Literal["eval", "train"] = "eval") -> "pd.DataFrame":
        """Returns the metrics as a pandas DataFrame, one row per env step and seed.

            frame = result.to_pandas()
            frame.groupby("env_steps")["eval/return"].mean()

        Args:
          kind: `eval` for rows of evaluations, `train` for rows of training.
        Returns:
          A DataFrame with `env_steps`, `update`, `gradient_step` and `seed` (integers), and the
          metrics with a value in these rows.
        Raises:
          ConfigError: unknown kind, or pandas is not installed.
        """
        if kind not in ("eval", "train"):
            raise config.ConfigError(
                f"to_pandas: kind={kind!r}; {config.suggest(str(kind), ('eval', 'train'))}"
            )
        try:
            import pandas as pd
        except ImportError as error:
            raise config.ConfigError(
                "to_pandas: pandas is not installed; pip install 'qmix-jax[pandas]'"
            ) from error
        rows = self.metrics["kind"] == kind
        columns = {name: values[rows] for name, values in self.metrics.items() if name != "kind"}
        counters = {name: columns[name].astype(int) for name in _COUNTERS}
        return pd.DataFrame({**columns, **counters}).dropna(axis="columns", how="all")

    def plot(self, metric: str | None = None) -> learning_curves.Figure:
        """Plots learning curves: mean over seeds, 95 % interval, and a thin line per seed.

            result.plot()  # evaluation and training diagnostics
            result.plot("eval/return").savefig("return.png")

        Args:
          metric: the only metric to draw, for example `eval/return`.
        Returns:
          A Matplotlib figure, which a notebook displays.
        Raises:
          ConfigError: there is no finite value to draw.
        """
        title = f"{self.config.name}: {self.config.algo.name}"
        return learning_curves.figure(self.metrics, title, metric)


def make(
    job: jobs.Job, outcome: outcomes.Outcome, program: Program, objective: Objective
) -> Result:
    """Returns the result of a job, from its outcome and the metrics in its directory."""
    metrics = storage.read_metrics(job.path / "metrics.csv")
    return Result(
        config=job.config,
        plan=program.plan,
        directory=job.path,
        metrics=metrics,
        parameters=outcome.parameters,
        best_parameters=outcome.best_parameters,
        interrupted=outcome.interrupted,
        failures=outcome.failures,
        objective=objective.score(metrics),
        pruned=outcome.pruned,
        stopped=outcome.stopped,
    )


def load_run(
    directory: str | os.PathLike[str],
    objective: Objective = Objective(),  # noqa: B008
) -> Result:
    """Loads the result of a finished run from its directory.

        result = qmix_jax.load_run("runs/two_step/qmix/2025-01-31_12-00-00")

    Args:
      directory: a run directory.
      objective: defines `Result.objective`.
    Returns:
      A `Result` equal to the one that training returned.
    Raises:
      ConfigError: the directory has no finished run, or an older version wrote it.
    """
    path = pathlib.Path(directory)
    cfg = metadata.read_run_config(path)
    return make(jobs.Job(cfg, path), record.read_outcome(path), build(cfg), objective)


def show(result: Result) -> None:
    """Prints the summary of a run."""
    manifest = metadata.read_manifest(result.directory)
    reached = manifest["reached"]
    totals = learning_curves.Totals(
        env_steps=reached["env_steps"],
        gradient_steps=reached["gradient_steps"],
        compile_s=manifest["compile_s"]["total"],
        train_s=reached["train_s"],
        eval_s=reached["eval_s"],
    )
    remarks = [f"ended by {result.stopped}"] if result.stopped else []
    if result.interrupted:
        remarks.append("interrupted: these are the results of an unfinished run")
        if result.config.checkpoint.enabled:
            remarks.append(f"to resume: qmix-jax train resume={result.directory}")
    files = [result.directory / name for name in record.FILES]
    learning_curves.summary(result.metrics, totals, files, remarks)
