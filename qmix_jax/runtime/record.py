"""The files of one run besides its metrics."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from qmix_jax import config, population
from qmix_jax import program as programs
from qmix_jax.runtime import loop, parameters, provenance, report

FILES = (
    "curves.png", "metrics.csv", "parameters_best.npz", "parameters_final.npz", "manifest.json",
)  # fmt: skip
"""What a person opens, in this order."""


def reached(path: pathlib.Path) -> dict[str, Any] | None:
    """What the run in a directory came to, from its manifest; None where none has ended there."""
    if not all((path / name).is_file() for name in FILES):
        return None
    return json.loads((path / "manifest.json").read_text(encoding="utf-8")).get("reached")


def read_outcome(path: pathlib.Path) -> loop.Outcome:
    """What training returned, from a run directory.

    Raises:
      ConfigError: the run has not ended.
    """
    found = reached(path)
    if found is None:
        raise config.ConfigError(
            f"run directory: {str(path)!r} lacks what a run writes at its end; give that of a run "
            "that has ended, or go on with it: qmix-jax train resume=DIR"
        )
    return loop.Outcome(
        parameters=parameters.load_parameters(path / "parameters_final.npz"),
        best_parameters=parameters.load_parameters(path / "parameters_best.npz"),
        update=found["updates"],
        failures={int(member): text for member, text in found["failures"].items()},
        **{name: found[name] for name in ("env_steps", "train_s", "eval_s", "interrupted")},
        pruned=found["pruned"],
    )


class Record:
    """Writes what is known before training, and after it what came of it."""

    def __init__(
        self,
        cfg: config.ExperimentConfig,
        path: pathlib.Path,
        command: str,
        program: programs.Program,
        members: population.Population,
    ) -> None:
        """`members` may be a larger population than this run's own members."""
        self._cfg = cfg
        self._path = path
        self._command = command
        self._program = program
        self._members = members
        self._manifest: dict[str, Any] = {}

    def begin(self, compile_s: float, more: Mapping[str, Any] | None = None) -> None:
        """Writes the configuration and the manifest, with `more` fields."""
        # How a run came to go on is no setting of it.
        settings = config.dump(self._cfg.model_copy(update={"resume": None}))
        provenance.write_config(self._path / "config.yaml", settings)
        places = self._members.layout
        self._manifest = provenance.manifest(
            settings,
            self._command,
            places.devices,
            {
                "compile_s": {"total": compile_s, **self._members.compile_seconds},
                "parameters_per_member": self._members.parameter_counts,
                "plan": {**dataclasses.asdict(self._program.plan), "env": self._program.spec.name},
                "population": {
                    "members": places.n_members,
                    "inert_members": places.padding,
                    "batching": places.batching,
                },
                "precision": self._cfg.precision,
                "spec": dataclasses.asdict(self._program.spec),
                **(more or {}),
            },
        )
        provenance.write_json(self._path / "manifest.json", self._manifest)

    def finish(self, outcome: loop.Outcome) -> None:
        """Writes parameters, curves and the finished manifest; `outcome` of this run's members."""
        path, cfg = self._path, self._cfg
        parameters.save_parameters(path / "parameters_final.npz", outcome.parameters)
        parameters.save_parameters(path / "parameters_best.npz", outcome.best_parameters)
        reached = {
            "updates": outcome.update,
            "env_steps": outcome.env_steps,
            "gradient_steps": outcome.update * self._program.plan.gradient_steps,
            "train_s": outcome.train_s,
            "eval_s": outcome.eval_s,
            "interrupted": outcome.interrupted,
            "pruned": outcome.pruned,
            "failures": outcome.failures,
        }
        provenance.write_json(path / "manifest.json", {**self._manifest, "reached": reached})
        title = f"{cfg.name}: {cfg.algo.name} on {self._program.spec.name}"
        report.curves(path / "metrics.csv", path / "curves.png", title)
