"""The files of one run besides its metrics."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from qmix_jax import config, population
from qmix_jax.console import learning_curves
from qmix_jax.runs import jobs, metadata, outcomes, parameters, storage

COMMAND = "qmix_jax.train"
"""What is recorded as the command where none is given."""

FILES = (
    "curves.png", "metrics.csv", "parameters_best.npz", "parameters_final.npz", "manifest.json",
)  # fmt: skip
"""What a person opens, in this order."""


def reached(path: pathlib.Path) -> dict[str, Any] | None:
    """What the run in a directory came to, from its manifest; None where none has ended there.

    Raises: ConfigError for a directory of an older version.
    """
    if not all((path / name).is_file() for name in FILES):
        return None
    return metadata.read_manifest(path).get("reached")


def read_outcome(path: pathlib.Path) -> outcomes.Outcome:
    """What training returned, from a run directory.

    Raises:
      ConfigError: the run has not ended.
    """
    found = reached(path)
    if found is None:
        raise config.ConfigError(
            f"run directory: {str(path)!r} lacks what a run writes at its end; give that of a run "
            "that has ended, or resume it: qmix-jax train resume=DIR"
        )
    numbers = {**found, "update": found["updates"]}
    del numbers["updates"], numbers["gradient_steps"]
    return outcomes.Outcome.made_of(
        numbers,
        parameters.load_parameters(path / "parameters_final.npz"),
        parameters.load_parameters(path / "parameters_best.npz"),
    )


def settings(cfg: config.ExperimentConfig) -> dict[str, Any]:
    """What is recorded as the configuration: whether a run was resumed is no setting of it."""
    return config.dump(cfg.model_copy(update={"resume": None}))


def begin(
    group: jobs.Group,
    job: jobs.Job,
    members: population.Population,
    compile_s: float,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes configuration and manifest of a run that begins or resumes; the manifest.

    Args:
      members: maybe a larger population than this run's own members.
      more: further fields.
    """
    places, program = members.layout, group.program
    manifest = metadata.manifest(
        settings(job.config),
        job.command or COMMAND,
        places.devices,
        {
            "compile_s": {"total": compile_s, **members.compile_seconds},
            "parameters_per_member": members.parameter_counts,
            "plan": {**dataclasses.asdict(program.plan), "env": program.spec.name},
            "population": {
                "members": places.n_members,
                "inert_members": places.padding,
                "batching": places.batching,
            },
            "precision": job.config.precision,
            "spec": dataclasses.asdict(program.spec),
            **more,
        },
    )
    metadata.write_config(job.path / "config.yaml", manifest["config"])
    metadata.write_json(job.path / "manifest.json", manifest)
    return manifest


def finish(job: jobs.Job, manifest: Mapping[str, Any], outcome: outcomes.Outcome) -> None:
    """Writes parameters, curves and the finished manifest; `outcome` of this run's members."""
    path, cfg, plan = job.path, job.config, manifest["plan"]
    parameters.save_parameters(path / "parameters_final.npz", outcome.parameters)
    parameters.save_parameters(path / "parameters_best.npz", outcome.best_parameters)
    numbers = outcome.numbers()
    updates = numbers.pop("update")
    reached = {"updates": updates, "gradient_steps": updates * plan["gradient_steps"], **numbers}
    metadata.write_json(path / "manifest.json", {**manifest, "reached": reached})
    title = f"{cfg.name}: {cfg.algo.name} on {plan['env']}"
    curves(path / "metrics.csv", path / "curves.png", title)


def curves(
    metrics_path: str | os.PathLike[str], png_path: str | os.PathLike[str], title: str
) -> pathlib.Path:
    """Draws the learning curves of a run into a PNG file.

    Args:
      metrics_path: its `metrics.csv`.
      png_path: the picture, replaced if it exists.
      title: experiment, algorithm and environment; the number of seeds is added.
    Returns:
      The path of the picture.
    Raises:
      ConfigError: there is no such file, or it has no values to draw.
    """
    drawing = learning_curves.figure(storage.read_metrics(metrics_path), title)
    with storage.atomic(png_path) as file:
        drawing.savefig(file, format="png", dpi=150)
    return pathlib.Path(png_path)
