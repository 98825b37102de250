"""Runs to train, and groups of them that share a program, as records."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from qmix_jax import config, program
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
