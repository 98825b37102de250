"""Jobs to train, and groups of jobs that share a compiled program."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from qmix_jax import config, program, reprs
from qmix_jax.types import HParams


class Job(NamedTuple):
    """A configuration to train.

    Attributes:
      config: from `qmix_jax.compose_config` or `qmix_jax.load_config`.
      directory: a new or empty directory; by default `runs/<name>/<algo>/<time>`.
      command: the command to record in `manifest.json`; by default `qmix_jax.train`.
      label: identifies the job in tables.
    """

    config: config.ExperimentConfig
    directory: str | os.PathLike[str] | None = None
    command: str | None = None
    label: str = ""

    @property
    def path(self) -> pathlib.Path:
        """The run directory; set when the job is launched."""
        assert self.directory is not None, "not launched yet"
        return pathlib.Path(self.directory)

    def summary(self) -> dict[str, Any]:
        """Fields of `repr`: names and seeds of the configuration, and label, directory, command."""
        names = ("name", "env", "algo", "seed", "seeds")
        cfg = {name: value for name, value in self.config.summary().items() if name in names}
        job = {"label": self.label, "directory": self.directory, "command": self.command}
        return cfg | {name: value for name, value in job.items() if value}

    __repr__, _repr_html_ = reprs.text, reprs.html


class Group(NamedTuple):
    """Jobs that share a compiled program.

    Attributes:
      jobs: their configurations differ only in traced keys.
      program: shared by all of them.
      heading: begins the first printed line; empty for a single job.
    """

    jobs: Sequence[Job]
    program: program.Program
    heading: str = ""

    @property
    def config(self) -> config.ExperimentConfig:
        """Configuration of the first job."""
        return self.jobs[0].config

    @property
    def seeds(self) -> list[int]:
        """Seeds of all members, in order."""
        return [job.config.seed + i for job in self.jobs for i in range(job.config.seeds)]

    @property
    def hparams(self) -> list[HParams]:
        """Hyperparameters of all members, in order."""
        return [
            hparams
            for job in self.jobs
            for hparams in [program.hparams(job.config.hparams)] * job.config.seeds
        ]

    @property
    def owners(self) -> list[int]:
        """Index of each member's job."""
        return [i for i, job in enumerate(self.jobs) for _ in range(job.config.seeds)]
