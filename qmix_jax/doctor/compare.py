"""Compares the metrics of two runs, column by column, and what their manifests say of where they
were made.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

EXACT, CLOSE, DIFFERENT, MACHINE = "exact", "within tolerance", "different", "machine"
_SOURCES = ("git", "versions", "device", "cpu_count", "population", "precision")
"""Parts of a manifest that can change numbers, the likeliest first."""


class Difference(NamedTuple):
    """One value that differs.

    Attributes:
      line: of the first run's `metrics.csv`; the header is line 1.
      kind, env_steps, seed: of its row.
      column: its name.
      old, new: its values; NaN where a cell is empty.
    """

    line: int
    kind: str
    env_steps: int
    seed: int
    column: str
    old: float
    new: float

    def __str__(self) -> str:
        return (
            f"metrics.csv line {self.line} ({self.kind} row of seed {self.seed} at "
            f"{self.env_steps:,} env steps), column {self.column}: {self.old!r} became {self.new!r}"
        )


class ColumnComparison(NamedTuple):
    """Attributes:
    verdict: `exact`, `within tolerance`, `different`; `machine` for wall-clock columns, which are
      not compared.
    n_different: rows in which the values are not the same.
    largest: largest relative difference; infinite where only one of the values is a number.
    """

    name: str
    verdict: str
    n_different: int
    largest: float


class Comparison(NamedTuple):
    """Attributes:
    columns: of both runs, in the first one's order.
    n_rows: that both runs have.
    only_old, only_new: rows that only one of them has.
    missing: columns that only one of them has.
    first: the first value, by row, beyond the tolerance; None without one.
    """

    columns: tuple[ColumnComparison, ...]
    n_rows: int
    only_old: int
    only_new: int
    missing: tuple[str, ...]
    first: Difference | None

    @property
    def verdict(self) -> str:
        """The worst of all columns and rows."""
        found = {column.verdict for column in self.columns}
        if DIFFERENT in found or self.only_old or self.only_new or self.missing:
            return DIFFERENT
        return CLOSE if CLOSE in found else EXACT


def metrics(
    old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray], tolerance: float
) -> Comparison:
    """Compares rows of the same kind, env steps and seed.

    Args:
      old, new: columns as from `storage.read_metrics`.
      tolerance: relative difference up to which two numbers are close.
    """
    places, others = _rows(old), _rows(new)
    both = [row for row in places if row in others]
    left = np.array([places[row] for row in both], int)
    right = np.array([others[row] for row in both], int)
    names = [name for name in old if name in new and name not in ("kind", "seed", "env_steps")]
    columns, first = [], None
    for name in names:
        values = old[name][left], new[name][right]
        columns.append(_column(name, *values, tolerance))
        if columns[-1].verdict == DIFFERENT:
            at = int(np.argmax(_differences(*values) > tolerance))
            kind, steps, seed = both[at]
            cell = Difference(
                int(left[at]) + 2, kind, steps, seed, name, *(float(v[at]) for v in values)
            )
            first = cell if first is None or cell.line < first.line else first
    return Comparison(
        columns=tuple(columns),
        n_rows=len(both),
        only_old=len(places) - len(both),
        only_new=len(others) - len(both),
        missing=tuple(sorted(set(old) ^ set(new))),
        first=first,
    )


def surroundings(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs between two manifests and may change numbers: dotted name -> (old, new)."""
    flat = [_flatten({name: one.get(name) for name in _SOURCES}) for one in (old, new)]
    found = {
        name: (flat[0].get(name), flat[1].get(name))
        for name in dict.fromkeys([*flat[0], *flat[1]])
        if flat[0].get(name) != flat[1].get(name)
    }
    batched = "vmap" in (one.get("population.batching") for one in flat)
    return {
        name: pair
        for name, pair in found.items()
        if batched or name not in ("population.members", "population.inert_members")
    }


def common(
    columns: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The rows that the others have too."""
    found = _rows(others)
    keep = [i for row, i in _rows(columns).items() if row in found]
    return {name: values[keep] for name, values in columns.items()}


def _rows(columns: Mapping[str, np.ndarray]) -> dict[tuple[str, int, int], int]:
    """(kind, env steps, seed) -> position."""
    keys = zip(columns["kind"], columns["env_steps"], columns["seed"], strict=True)
    return {(str(kind), int(steps), int(seed)): i for i, (kind, steps, seed) in enumerate(keys)}


def _column(name: str, old: np.ndarray, new: np.ndarray, tolerance: float) -> ColumnComparison:
    differences = _differences(old, new)
    largest = float(differences.max(initial=0.0))
    verdict = EXACT if largest == 0 else CLOSE if largest <= tolerance else DIFFERENT
    if name == "time_s" or name.startswith("perf/"):
        verdict = MACHINE
    return ColumnComparison(name, verdict, int((differences > 0).sum()), largest)


def _differences(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Relative to the larger value; 0 for equal ones, NaN and infinity included."""
    same = (old == new) | (np.isnan(old) & np.isnan(new))
    size = np.maximum(np.abs(old), np.abs(new))
    gap = np.abs(np.where(same, 0.0, new) - np.where(same, 0.0, old))
    known = np.isfinite(gap) & ~same
    relative = np.divide(gap, size, out=np.full(len(old), np.inf), where=known)
    return np.where(same, 0.0, relative)


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
