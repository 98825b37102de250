"""Compares runs: metrics without what depends on the machine, parameters bit for bit."""

import csv
import pathlib
from typing import Any

import numpy as np

from toys import members

_MACHINE_COLUMNS = ("time_s", "perf/env_steps_per_s")


def rows(directory: pathlib.Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv` as text, without times and speeds."""
    with (directory / "metrics.csv").open(newline="") as file:
        return [
            {name: cell for name, cell in row.items() if name not in _MACHINE_COLUMNS}
            for row in csv.DictReader(file)
        ]


def assert_equal(a: Any, b: Any) -> None:
    """Checks that two trees have equal arrays."""
    for x, y in zip(members.leaves(a), members.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
