"""Compares the metrics and the manifests of two runs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from qmix_jax import groups

EXACT, CLOSE, DIFFERENT = "exact", "within tolerance", "different"
NOT_COMPARED = "not compared"
_SOURCES = ("git", "versions", "device", "cpu_count", "population", "precision")
"""Parts of a manifest that can change metrics, the likeliest first."""


class Difference(NamedTuple):
    """One value that differs.

    Attributes:
      line: of the first run's `metrics.csv`; the header is line 1.
      kind, env_steps, seed: of the row.
      column: name of the column.
      old, new: the values; NaN for an empty cell.
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
    """Comparison of one column.

    Attributes:
      verdict: `exact`, `within tolerance`, `different`; `not compared` for wall-clock columns.
      n_different: number of rows whose values differ.
      largest: largest relative difference; infinite if only one of the values is finite.
    """

    name: str
    verdict: str
    n_different: int
    largest: float


class Comparison(NamedTuple):
    """Comparison of the metrics of two runs.

    Attributes:
      columns: columns of both runs, in the first one's order.
      n_rows: number of rows that both runs have.
      only_old, only_new: number of rows that only one of them has.
      missing: columns that only one of them has.
      first: the first value, by row, that exceeds the tolerance; None if none does.
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
        verdicts = {column.verdict for column in self.columns}
        if DIFFERENT in verdicts or self.only_old or self.only_new or self.missing:
            return DIFFERENT
        return CLOSE if CLOSE in verdicts else EXACT


def metrics(
    old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray], tolerance: float
) -> Comparison:
    """Compares rows of the same kind, env steps and seed.

    Args:
      old, new: columns as from `storage.read_metrics`.
      tolerance: largest relative difference between two close numbers.
    """
    old_rows, new_rows = _rows(old), _rows(new)
    shared = [row for row in old_rows if row in new_rows]
    left = np.array([old_rows[row] for row in shared], int)
    right = np.array([new_rows[row] for row in shared], int)
    columns, differences = [], []
    for name in [name for name in old if name in new and name not in ("kind", "seed", "env_steps")]:
        values = old[name][left], new[name][right]
        columns.append(_compare_column(name, *values, tolerance))
        if columns[-1].verdict == DIFFERENT:
            at = int(np.argmax(_relative_difference(*values) > tolerance))
            cell = *shared[at], name, float(values[0][at]), float(values[1][at])
            differences.append(Difference(int(left[at]) + 2, *cell))
    return Comparison(
        columns=tuple(columns),
        n_rows=len(shared),
        only_old=len(old_rows) - len(shared),
        only_new=len(new_rows) - len(shared),
        missing=tuple(sorted(set(old) ^ set(new))),
        first=min(differences, key=lambda difference: difference.line, default=None),
    )


def manifests(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns differences of two manifests that may change metrics: dotted name -> (old, new)."""
    pair = [{name: manifest.get(name) for name in _SOURCES} for manifest in (old, new)]
    batched = any((part["population"] or {}).get("batching") == "vmap" for part in pair)
    harmless = () if batched else ("population.members", "population.inert_members")
    return {
        name: values
        for name, values in groups.differences(*pair).items()
        if name not in harmless and values[0] != values[1]
    }


def shared_rows(
    columns: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the rows of `columns` that `others` has too."""
    other_rows = _rows(others)
    indices = [i for row, i in _rows(columns).items() if row in other_rows]
    return {name: values[indices] for name, values in columns.items()}


def _rows(columns: Mapping[str, np.ndarray]) -> dict[tuple[str, int, int], int]:
    """Returns (kind, env steps, seed) -> index."""
    keys = zip(columns["kind"], columns["env_steps"], columns["seed"], strict=True)
    return {(str(kind), int(steps), int(seed)): i for i, (kind, steps, seed) in enumerate(keys)}


def _compare_column(
    name: str, old: np.ndarray, new: np.ndarray, tolerance: float
) -> ColumnComparison:
    differences = _relative_difference(old, new)
    largest = float(differences.max(initial=0.0))
    verdict = EXACT if largest == 0 else CLOSE if largest <= tolerance else DIFFERENT
    if name == "time_s" or name.startswith("perf/"):
        verdict = NOT_COMPARED
    return ColumnComparison(name, verdict, int((differences > 0).sum()), largest)


def _relative_difference(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Returns differences relative to the larger value; 0 where equal, also NaN and infinity."""
    same = (old == new) | (np.isnan(old) & np.isnan(new))
    gap = np.abs(np.where(same, 0.0, new) - np.where(same, 0.0, old))
    size = np.maximum(np.abs(old), np.abs(new))
    relative = np.full(len(old), np.inf)
    np.divide(gap, size, out=relative, where=np.isfinite(gap) & ~same)
    return np.where(same, 0.0, relative)
