"""Where a run's rows go: the files of its directory, and the sinks that its configuration names."""

import contextlib
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from qmix_jax import config
from qmix_jax.runtime import sinks


class JobRows(contextlib.AbstractContextManager["JobRows"]):
    """Attributes:
    files: `metrics.csv` and `metrics.jsonl`.
    """

    def __init__(self, files: sinks.MetricsFiles) -> None:
        self.files = files

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows, one per member at a time, to everything that is open."""
        self.files.write(rows)

    def __exit__(self, *error: Any) -> None:
        self.files.__exit__(*error)


def open_rows(
    cfg: config.ExperimentConfig,
    path: pathlib.Path,
    names: Sequence[str],
    note: Callable[[str], None],
    resumed_at_update: int | None = None,
) -> JobRows:
    """Opens everything that the rows of one run go to.

    Args:
      cfg: of the run.
      path: its directory, claimed.
      names: columns of all metrics that any row will have, in order.
      note: shows the user a line.
      resumed_at_update: the update that a run that goes on was at; None for a new one.
    Raises:
      ConfigError: the directory already holds metrics.
    """
    return JobRows(sinks.MetricsFiles(path, names))
