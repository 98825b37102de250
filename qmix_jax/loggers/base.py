"""The Logger contract: writes the metrics rows of a run to a further destination.

A logger is a module with a `Config` and `make(cfg, run) -> Logger`. An optional `check(cfg)` raises
`ConfigError` before anything is compiled, for example if a package is missing. Any exception of
`make`, `write` or `close` disables the logger; the run continues.
"""

import importlib.util
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from qmix_jax import config

KEYS = ("kind", "env_steps", "update", "gradient_step", "seed")
"""Entries of every row besides metrics: `kind` is `train` or `eval`, the others are integers. They
are the first columns of `metrics.csv`.
"""

Row = Mapping[str, Any]
"""`KEYS` and the finite metrics of one member at one time."""


class RunInfo(NamedTuple):
    """The run that a logger writes.

    Attributes:
      directory: the run directory; a logger writes its files into a subfolder.
      config: nested mapping of plain values, as in `config.yaml`.
      seeds: seeds of the members.
      columns: names of all metrics that rows can contain.
      resumed_after: for a resumed run, seed -> env steps of the last row before the checkpoint, for
        seeds that have one; later rows are written again with equal values. None for a new run.
    """

    directory: pathlib.Path
    config: Mapping[str, Any]
    seeds: tuple[int, ...]
    columns: tuple[str, ...]
    resumed_after: Mapping[int, int] | None


class Logger(NamedTuple):
    """An open logger.

    Attributes:
      where: one line for the user: where the rows are, and how to view them.
      write: `(rows)`, one row per member, in the order of training.
      close: `(failed)`, whether the run ended with an error.
    """

    where: str
    write: Callable[[Sequence[Row]], None]
    close: Callable[[bool], None]


def require(logger: str, package: str) -> None:
    """Raises: ConfigError if `package`, of the extra with the name of the logger, is missing."""
    if importlib.util.find_spec(package) is None:
        raise config.ConfigError(
            f"config: logger={logger} needs package {package}, which is not installed; "
            f"pip install 'qmix-jax[{logger}]', or remove the logger"
        )


def metrics(row: Row) -> dict[str, Any]:
    """Returns the metrics of a row, without `KEYS`."""
    return {name: value for name, value in row.items() if name not in KEYS}
