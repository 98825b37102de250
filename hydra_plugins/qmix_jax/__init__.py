"""Hydra finds its plugins here; what they do is in `qmix_jax.cli`."""

from collections.abc import Sequence
from typing import Any

from hydra.core import utils
from hydra.plugins.launcher import Launcher


class FusedLauncher(Launcher):
    """`hydra/launcher=fused`: all jobs that can share a compiled program train side by side."""

    def __init__(self, **options: Any) -> None:
        """`options` are those of `configs/hydra/launcher/fused.yaml`."""
        self._options = options

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Keeps what Hydra gives; the task itself, one run at a time, is not used."""
        del task_function
        self._context = hydra_context
        self._config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[utils.JobReturn]:
        """Trains all jobs; the return value of each is its objective."""
        from qmix_jax.cli import launcher

        return launcher.launch(
            self._context, self._config, job_overrides, initial_job_idx, **self._options
        )
