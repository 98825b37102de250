"""Hydra plugins: classes that Hydra looks for here, implemented in `qmix_jax.cli`."""

from collections.abc import Sequence
from typing import Any

from hydra.core import utils
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper


class _Plugin:
    """Stores the options of a plugin's YAML file and Hydra's context.

    The task function, which trains one run, is not used.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        del task_function
        self._context = hydra_context
        self._config = config


class FusedLauncher(_Plugin, Launcher):
    """`hydra/launcher=fused`: jobs that can share a compiled program train together."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[utils.JobReturn]:
        """Trains all jobs and returns the objective of each."""
        from qmix_jax.cli import launcher

        return launcher.launch(
            self._context, self._config, job_overrides, initial_job_idx, **self._options
        )


class FusedSlurmLauncher(_Plugin, Launcher):
    """`hydra/launcher=fused_slurm`: each compiled program is a job of a SLURM cluster."""

    cluster = "slurm"

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[utils.JobReturn]:
        """Submits the jobs, waits, and returns the objective of each."""
        from qmix_jax.cli import submit

        return submit.launch(
            self._context,
            self._config,
            job_overrides,
            initial_job_idx,
            self.cluster,
            self._options,
        )


class FusedLocalLauncher(FusedSlurmLauncher):
    """`hydra/launcher=fused_local`: each compiled program is a process on this machine."""

    cluster = "local"


class OptunaSweeper(_Plugin, Sweeper):
    """`hydra/sweeper=optuna`: a search in batches that train together."""

    def sweep(self, arguments: list[str]) -> None:
        """Trains until the study is complete; the configuration already contains `arguments`."""
        del arguments
        from qmix_jax.cli import search

        search.search(self._context, self._config, self._options)
