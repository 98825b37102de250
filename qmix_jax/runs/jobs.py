"""Runs to train, and groups of them that share a program, as records."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from qmix_jax import config, program, reprs
from qmix_jax.types import HParams


class Job(NamedTuple):
    """One run to train.

    Attributes:
      config: from `qmix_jax.load_config`.
      directory: a new or empty directory; by default `runs/<name>/<algo>/<time>`.
      command: what to record as the command; by default a call of `qmix_jax.train`.
      label: what tells this job from the others, for tables.
    """

    config: config.ExperimentConfig
    directory: str | os.PathLike[str] | None = None
    command: str | None = None
    label: str = ""

    @property
    def path(self) -> pathlib.Path:
        """The directory, once it is known."""
        assert self.directory is not None, "set when the jobs are launched"
        return pathlib.Path(self.directory)

    def summary(self) -> dict[str, Any]:
        """Fields of `repr`: the names and seeds of the configuration, and the job's own fields."""
        names = ("name", "env", "algo", "seed", "seeds")
        cfg = {name: value for name, value in self.config.summary().items() if name in names}
        job = {"label": self.label, "directory": self.directory, "command": self.command}
        return cfg | {name: value for name, value in job.items() if value}

    __repr__, _repr_html_ = reprs.text, reprs.html


class Group(NamedTuple):
    """Attributes:
    jobs: runs whose configurations differ only in what is traced.
    program: of all of them.
    heading: what the first line begins with; empty for a lone run.
    """

    jobs: Sequence[Job]
    program: program.Program
    heading: str = ""

    @property
    def config(self) -> config.ExperimentConfig:
        """Of the first run."""
        return self.jobs[0].config

    @property
    def seeds(self) -> list[int]:
        """Of all members, in order."""
        return [job.config.seed + i for job in self.jobs for i in range(job.config.seeds)]

    @property
    def hparams(self) -> list[HParams]:
        """Of all members, in order."""
        return [
            hparams
            for job in self.jobs
            for hparams in [program.hparams(job.config.hparams)] * job.config.seeds
        ]

    @property
    def owners(self) -> list[int]:
        """The job of each member."""
        return [i for i, job in enumerate(self.jobs) for _ in range(job.config.seeds)]
