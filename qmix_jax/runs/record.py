"""Files of a run besides its metrics: configuration, manifest, parameters, learning curves."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from qmix_jax import config, population
from qmix_jax.console import learning_curves
from qmix_jax.runs import jobs, metadata, outcomes, parameters, storage

COMMAND = "qmix_jax.train"
"""The command recorded by default."""

FILES = (
    "curves.png", "metrics.csv", "parameters_best.npz", "parameters_final.npz", "manifest.json",
)  # fmt: skip
"""Files of a finished run, in the order in which the summary lists them."""


def read_summary(path: pathlib.Path) -> dict[str, Any] | None:
    """Reads `reached` of a finished run's manifest: steps, seconds, failures; None if unfinished.

    Raises: ConfigError if an older version wrote the directory.
    """
    if not all((path / name).is_file() for name in FILES):
        return None
    return metadata.read_manifest(path).get("reached")


def read_outcome(path: pathlib.Path) -> outcomes.Outcome:
    """Reads the outcome of a finished run. Raises: ConfigError if it has not finished."""
    summary = read_summary(path)
    if summary is None:
        raise config.ConfigError(
            f"run directory: {str(path)!r} lacks the final files of a run; give the directory of a "
            "finished run, or resume this one: qmix-jax train resume=DIR"
        )
    fields = {**summary, "update": summary["updates"]}
    del fields["updates"], fields["gradient_steps"]
    return outcomes.Outcome.from_json(
        fields,
        parameters.load_parameters(path / "parameters_final.npz"),
        parameters.load_parameters(path / "parameters_best.npz"),
    )


def recorded_config(cfg: config.ExperimentConfig) -> dict[str, Any]:
    """Returns the configuration to record: without `resume`, which does not describe the run."""
    return config.dump(cfg.model_copy(update={"resume": None}))


def begin(
    group: jobs.Group,
    job: jobs.Job,
    members: population.Population,
    compile_s: float,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes `config.yaml` and the manifest of a run that starts or resumes; returns the manifest.

    Args:
      members: the population, which may also contain members of other runs.
      extra: further fields of the manifest.
    """
    layout, program = members.layout, group.program
    manifest = metadata.manifest(
        recorded_config(job.config),
        job.command or COMMAND,
        layout.devices,
        {
            "compile_s": {"total": compile_s, **members.compile_seconds},
            "parameters_per_member": members.parameter_counts,
            "plan": {**dataclasses.asdict(program.plan), "env": program.spec.name},
            "population": {
                "members": layout.n_members,
                "inert_members": layout.padding,
                "batching": layout.batching,
            },
            "precision": job.config.precision,
            "spec": dataclasses.asdict(program.spec),
            **extra,
        },
    )
    metadata.write_config(job.path / "config.yaml", manifest["config"])
    metadata.write_json(job.path / "manifest.json", manifest)
    return manifest


def finish(job: jobs.Job, manifest: Mapping[str, Any], outcome: outcomes.Outcome) -> None:
    """Writes the parameters, final manifest and learning curves of a job."""
    path, cfg, plan = job.path, job.config, manifest["plan"]
    parameters.save_parameters(path / "parameters_final.npz", outcome.parameters)
    parameters.save_parameters(path / "parameters_best.npz", outcome.best_parameters)
    fields = outcome.to_json()
    updates = fields.pop("update")
    reached = {"updates": updates, "gradient_steps": updates * plan["gradient_steps"], **fields}
    metadata.write_json(path / "manifest.json", {**manifest, "reached": reached})
    draw_curves(path, f"{cfg.name}: {cfg.algo.name} on {plan['env']}")


def draw_curves(run: pathlib.Path, title: str) -> None:
    """Draws `curves.png` of a run directory from its `metrics.csv`.

    Args:
      title: experiment, algorithm and environment; the number of seeds is appended.
    Raises: ConfigError if the metrics are missing or have no values to draw.
    """
    figure = learning_curves.figure(storage.read_metrics(run / "metrics.csv"), title)
    with storage.atomic(run / "curves.png") as file:
        figure.savefig(file, format="png", dpi=150)
