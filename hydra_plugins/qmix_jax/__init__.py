"""Hydra finds its plugins here; what they do is in `qmix_jax.cli`."""

from collections.abc import Sequence
from typing import Any

from hydra.core import utils
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper


class _Plugin:
    """Keeps the options of a plugin's YAML file and what Hydra gives; the task itself, one run at a
    time, is not used.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        del task_function
        self._context = hydra_context
        self._config = config


class FusedLauncher(_Plugin, Launcher):
    """`hydra/launcher=fused`: all jobs that can share a compiled program train side by side."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[utils.JobReturn]:
        """Trains all jobs; the return value of each is its objective."""
        from qmix_jax.cli import launcher

        return launcher.launch(
            self._context, self._config, job_overrides, initial_job_idx, **self._options
        )


class OptunaSweeper(_Plugin, Sweeper):
    """`hydra/sweeper=optuna`: a search in batches that train side by side."""

    def sweep(self, arguments: list[str]) -> None:
        """Trains until the study is complete."""
        from qmix_jax.cli import search

        search.search(self._context, self._config, arguments, self._options)


class FusedSlurmLauncher(FusedLauncher):
    """`hydra/launcher=fused_slurm`: each compiled program is a job of a SLURM cluster."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[utils.JobReturn]:
        """Submits, waits, and gives the objective of each job."""
        from qmix_jax.cli import submit

        return submit.launch(
            self._context, self._config, job_overrides, initial_job_idx, "slurm", self._options
        )


class FusedLocalLauncher(FusedLauncher):
    """`hydra/launcher=fused_local`: each compiled program is a process of this machine."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[utils.JobReturn]:
        """Starts processes, waits, and gives the objective of each job."""
        from qmix_jax.cli import submit

        return submit.launch(
            self._context, self._config, job_overrides, initial_job_idx, "local", self._options
        )
