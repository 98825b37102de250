"""The Logger bundle: where a run's rows go besides the files of its directory.

A logger is a module with a `Config` and `make(cfg, run) -> Logger`, and where something has to be
installed or set up beforehand with `check(cfg)`, which raises `ConfigError` before anything is
compiled. Whatever `make`, `write` and `close` raise switches the logger off; the run goes on.
"""

import importlib.util
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from qmix_jax import config

KEYS = ("kind", "env_steps", "update", "gradient_step", "seed")
"""What every row has besides metrics: `kind` is `train` or `eval`, the others are integers."""

Row = Mapping[str, Any]
"""`KEYS` and those metrics of a member that are finite numbers at the time."""


class RunInfo(NamedTuple):
    """What a logger is told about the run whose rows it gets.

    Attributes:
      directory: of the run; a logger keeps its files in a folder of its own there.
      config: nested mapping of plain values, as in `config.yaml`.
      seeds: of the members.
      columns: names of all metrics that any row may have.
      resumed_after: of a run that goes on, seed -> env steps of its last row that is kept, for the
        seeds that have one; rows after it come again, with the same values. None for a new run.
    """

    directory: pathlib.Path
    config: Mapping[str, Any]
    seeds: tuple[int, ...]
    columns: tuple[str, ...]
    resumed_after: Mapping[int, int] | None


class Logger(NamedTuple):
    """Attributes:
    where: for a line to the user: what is written where, and how to look at it.
    write: takes rows in the order of training, one per member at a time.
    close: ends the logger; told whether the run ended by an error.
    """

    where: str
    write: Callable[[Sequence[Row]], None]
    close: Callable[[bool], None]


def require(logger: str, package: str) -> None:
    """Raises: ConfigError where the extra named like the logger, with this package, is missing."""
    if importlib.util.find_spec(package) is None:
        raise config.ConfigError(
            f"config: logger={logger} needs the extra `{logger}` (package {package}), which is not "
            f"installed; pip install 'qmix-jax[{logger}]', or leave the logger out"
        )


def metrics(row: Row) -> dict[str, Any]:
    """The metrics of a row."""
    return {name: value for name, value in row.items() if name not in KEYS}


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every value of a nested mapping."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
