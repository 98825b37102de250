"""Compares two folders of recorded runs: equal bit for bit, or where they first differ.

Members are independent, so each has its own verdict: the relative difference in its first differing
row, or in its parameters if no row differs, must not exceed `TOLERANCE`. Differences grow with
training, so later ones are only reported.
"""

import csv
import json
import math
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

import qmix_jax
from benchmarks import measure
from benchmarks import record as records

TOLERANCE = 1e-5
KEYS = ("kind", "env_steps", "update", "gradient_step", "seed")


class Row(NamedTuple):
    """A row of `metrics.csv`: the values of `KEYS`, and the metrics that are not empty."""

    key: tuple[str, ...]
    values: dict[str, float]

    @property
    def update(self) -> int:
        """The number of updates."""
        return int(self.key[KEYS.index("update")])

    @property
    def seed(self) -> int:
        """The member's seed."""
        return int(self.key[KEYS.index("seed")])


class Difference(NamedTuple):
    """First difference of a member: update, name and size of the largest difference there."""

    update: int
    name: str
    size: float


class Verdict(NamedTuple):
    """The comparison of two recorded runs.

    Attributes:
      n_rows, n_parameters: rows and parameters compared.
      firsts: the first difference of each member that has one.
      metrics, parameters: largest relative difference anywhere; for parameters relative to the
        largest entry of the array.
      notes: harmless changes: new columns and renamed arrays.
    """

    n_rows: int
    n_parameters: int
    firsts: tuple[Difference, ...]
    metrics: float
    parameters: float
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every first difference is rounding."""
        return all(first.size <= TOLERANCE for first in self.firsts)


def run(options: measure.Options) -> int:
    """Compares the runs, or those of `only=NAME,...`, in `before=DIR` and `after=DIR`.

    Returns:
      1 if a run is missing or differs by more than rounding, else 0.
    Raises:
      ConfigError: an unknown setting, or records of different versions or machines.
    """
    settings = records.settings(options.overrides, ("before", "after", "only"))
    if options.smoke:
        return _smoke(options)
    for name in ("before", "after"):
        if name not in settings:
            raise qmix_jax.ConfigError(f"equality: {name}=DIR is missing; set it")
    before, after = pathlib.Path(settings["before"]), pathlib.Path(settings["after"])
    return _report(before, after, settings.get("only"), options)


def _smoke(options: measure.Options) -> int:
    """Records one tiny run twice and compares."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = pathlib.Path(folder, "before"), pathlib.Path(folder, "after")
        records.smoke(before)
        records.smoke(after)
        return _report(before, after, None, options)


def _report(
    before: pathlib.Path, after: pathlib.Path, only: str | None, options: measure.Options
) -> int:
    notes = _check_contexts(before, after)
    names = records.select(_runs(before), only)
    verdicts = {name: compare(before / name, after / name) for name in names}
    for name, verdict in verdicts.items():
        notes += [f"{name}: {note}" for note in verdict.notes]
    measure.report("equality", [_row(*pair) for pair in verdicts.items()], options, notes)
    return int(not all(verdict.passed for verdict in verdicts.values()))


def compare(before: pathlib.Path, after: pathlib.Path) -> Verdict:
    """Compares two recorded runs."""
    if not (after / records.RUN).is_file():
        missing = Difference(0, "the run is missing", math.inf)
        return Verdict(0, 0, (missing,), math.inf, math.inf, ())
    old, new = (_read(path / records.METRICS) for path in (before, after))
    firsts, largest = _compare_rows(old, new)
    notes = _new_columns(old, new)
    seeds, last = list(dict.fromkeys(row.seed for row in old)), max(row.update for row in old)
    n_parameters, worst = 0, 0.0
    for name in records.PARAMETERS:
        arrays, now = (_arrays(path / name) for path in (before, after))
        renamed = _rename(arrays, now)
        notes += [f"{name}: {was} is now {key}" for key, was in renamed.items()]
        now = {renamed.get(key, key): values for key, values in now.items()}
        n_parameters += sum(values.size for values in arrays.values())
        sizes = {seed: _compare_arrays(arrays, now, member) for member, seed in enumerate(seeds)}
        worst = max(worst, *(size for _, size in sizes.values()))
        firsts = {
            seed: Difference(last, f"{name}: {array}", size)
            for seed, (array, size) in sizes.items()
            if size > 0
        } | firsts
    return Verdict(len(old), n_parameters, tuple(firsts.values()), largest, worst, tuple(notes))


def _compare_rows(
    before: Sequence[Row], after: Sequence[Row]
) -> tuple[dict[int, Difference], float]:
    """Returns (seed -> its first difference, largest relative difference)."""
    firsts: dict[int, Difference] = {}
    largest = 0.0
    for old, new in zip(before, after, strict=False):
        if old.key != new.key:
            key = dict(zip(KEYS, new.key, strict=True))
            firsts.setdefault(old.seed, Difference(old.update, f"row {key}", math.inf))
            return firsts, math.inf
        sizes = {
            name: relative(value, new.values.get(name, math.nan))
            for name, value in old.values.items()
            if not same(value, new.values.get(name))
        }
        if sizes:
            worst = max(sizes, key=lambda name: sizes[name])
            largest = max(largest, sizes[worst])
            firsts.setdefault(old.seed, Difference(old.update, worst, sizes[worst]))
    if len(before) != len(after):
        row = max(before, after, key=len)[min(len(before), len(after))]
        name = f"{len(before)} rows, now {len(after)}"
        firsts.setdefault(row.seed, Difference(row.update, name, math.inf))
        return firsts, math.inf
    return firsts, largest


def same(old: float, new: float | None) -> bool:
    """Whether the values have equal bits, or are both NaN."""
    if new is None:
        return False
    return (math.isnan(old) and math.isnan(new)) or (
        old == new and math.copysign(1, old) == math.copysign(1, new)
    )


def relative(old: float, new: float) -> float:
    """Returns the difference relative to the larger value; inf if a value is not finite."""
    if not (math.isfinite(old) and math.isfinite(new)):
        return math.inf
    scale = max(abs(old), abs(new))
    return abs(old - new) / scale if scale else 0.0


def _compare_arrays(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], member: int
) -> tuple[str, float]:
    """Returns (array that differs most for a member, difference relative to its largest entry)."""
    sizes = {
        name: _distance(before.get(name), after.get(name), member)
        for name in dict.fromkeys((*before, *after))
    }
    worst = max(sizes, key=lambda name: sizes[name])
    return worst, sizes[worst]


def _distance(old: np.ndarray | None, new: np.ndarray | None, member: int) -> float:
    if old is None or new is None or old.shape != new.shape or old.dtype != new.dtype:
        return math.inf
    if not old.size:
        return 0.0
    old, new = old[member], new[member]
    if old.tobytes() == new.tobytes():
        return 0.0
    a, b = old.astype(np.float64), new.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    # Zeros of different signs have different bits but zero distance.
    return float(max(np.abs(a - b).max() / np.abs(a).max(initial=1e-30), np.finfo(float).tiny))


def _rename(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns new name -> old name of arrays with equal bits whose name changed."""
    missing = [name for name in before if name not in after]
    renamed: dict[str, str] = {}
    for name in after:
        old = next((old for old in missing if _identical(before[old], after[name])), None)
        if name not in before and old is not None:
            missing.remove(old)
            renamed[name] = old
    return renamed


def _identical(old: np.ndarray, new: np.ndarray) -> bool:
    return (old.shape, old.dtype, old.tobytes()) == (new.shape, new.dtype, new.tobytes())


def _new_columns(before: Sequence[Row], after: Sequence[Row]) -> list[str]:
    known = {name for row in before for name in row.values}
    new = dict.fromkeys(name for row in after for name in row.values if name not in known)
    return [f"new columns: {', '.join(new)}"] if new else []


def _read(path: pathlib.Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        Row(
            tuple(row[key] for key in KEYS),
            {name: float(cell) for name, cell in row.items() if name not in KEYS and cell},
        )
        for row in rows
    ]


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _runs(folder: pathlib.Path) -> list[str]:
    """Returns the names of the runs in a folder. Raises: ConfigError if there are none."""
    names = sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob(records.RUN))
    if not names:
        raise qmix_jax.ConfigError(f"equality: {str(folder)!r} has no recorded runs; record some")
    return names


def _check_contexts(before: pathlib.Path, after: pathlib.Path) -> list[str]:
    """Returns a note on the machine. Raises: ConfigError if versions, flags or machines differ."""
    contexts = []
    for folder in (before, after):
        try:
            contexts.append(json.loads((folder / records.CONTEXT).read_text(encoding="utf-8")))
        except OSError as error:
            raise qmix_jax.ConfigError(
                f"equality: cannot read {str(folder / records.CONTEXT)!r} ({error.strerror}); give "
                "the out=DIR of `python -m benchmarks record`"
            ) from error
    old, new = contexts
    other = [f"{key} {old.get(key)} (now {new.get(key)})" for key in {**old, **new}
             if old.get(key) != new.get(key)]  # fmt: skip
    if other:
        raise qmix_jax.ConfigError(
            f"equality: recorded with {', '.join(other)}; record both with the same"
        )
    return [f"jaxlib {new['jaxlib']}, {new['processor']}, {new['devices']} device(s)"]


def _row(name: str, verdict: Verdict) -> measure.Row:
    """Reports the earliest first difference, preferably one beyond rounding."""
    first = min(verdict.firsts, key=lambda first: (first.size <= TOLERANCE, first.update),
                default=None)  # fmt: skip
    text = "rounding" if verdict.passed else "DIFFERS"
    return {
        "case": name,
        "rows": verdict.n_rows,
        "numbers": verdict.n_parameters,
        "verdict": text if verdict.firsts else "equal bit for bit",
        "members": len(verdict.firsts),
        "first update": first and first.update,
        "first metric": first and first.name,
        "by": first and first.size,
        "most in metrics": verdict.metrics,
        "most in parameters": verdict.parameters,
    }
