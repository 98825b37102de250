"""Runs that share a program, as records."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from qmix_jax import config, program
from qmix_jax.types import HParams


class Job(NamedTuple):
    """One run of a group: its configuration, its directory (claimed) and the command to record."""

    config: config.ExperimentConfig
    path: pathlib.Path
    command: str


class Group(NamedTuple):
    """Attributes:
    jobs: runs whose configurations differ only in what is traced.
    program: of all of them.
    heading: what the first line begins with; empty for a lone run.
    first: number of the first member, where other processes train those before it.
    """

    jobs: Sequence[Job]
    program: program.Program
    heading: str
    first: int = 0

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
            numbers
            for job in self.jobs
            for numbers in [program.hparams(job.config.hparams)] * job.config.seeds
        ]

    @property
    def owners(self) -> list[int]:
        """The job of each member."""
        return [i for i, job in enumerate(self.jobs) for _ in range(job.config.seeds)]
