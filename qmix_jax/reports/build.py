"""From run directories to a report on disk and on the screen."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.table
import rich.text

from qmix_jax import config, reprs
from qmix_jax.console import progress
from qmix_jax.reports import collect, figures, html_page, marl_eval, statistics, study, summary
from qmix_jax.runs import metadata, scores, storage

PAGE, NUMBERS, MARL_EVAL = "report.html", "statistics.json", "marl_eval.json"


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A setting's place on a task.

    Attributes:
      setting: its label: the keys in which settings differ, with their values.
      seeds: runs pooled.
      iqm: interquartile mean of their scores, with the ends of its 95 % interval.
    """

    setting: str
    seeds: int
    iqm: statistics.Estimate


@dataclasses.dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
      directory: where.
      files: everything in it, `report.html` first.
      rankings: task, or `all tasks`, -> settings, the best first.
      warnings: runs that are unfinished, left out, run twice or frozen, a line each.
    """

    directory: pathlib.Path
    files: tuple[pathlib.Path, ...]
    rankings: Mapping[str, tuple[Ranked, ...]]
    warnings: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Fields of `repr`: the page, and the best setting of each task."""
        best = {
            f"best on {task}": f"{ranked[0].setting} ({float(ranked[0].iqm.value):.4g})"
            for task, ranked in self.rankings.items()
            if ranked
        }
        return {"page": self.files[0], **best, "warnings": len(self.warnings)}

    __repr__, _repr_html_ = reprs.text, reprs.html


def report(
    directories: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    *,
    last: int = scores.LAST,
    resamples: int = 2_000,
    drawn: int = 10,
) -> Report:
    """Compares the settings of runs and sweeps; prints a ranking and writes pages and pictures.

    Runs that differ in `seed`, `seeds` and `name` only are one setting, and their seeds are
    pooled. Settings are compared by the greedy win rate, or by the return where there is none.

    Args:
      directories: run directories, sweeps, or folders of either, one or several.
      out: where to write: a new or empty directory, or an earlier report, which is replaced;
        by default `report` in the first directory.
      last: a seed's score is its mean over so many of its last evaluations.
      resamples: bootstrap draws of the intervals.
      drawn: the most settings in a figure, the best ones; tables have all.
    Returns:
      A `Report`. On disk: `report.html` (whole, works offline), `curves.png`, `profile.png`,
      `improvement.png` (for two settings and more), `sensitivity_<key>.png` per swept key,
      `statistics.json`, and `marl_eval.json` in the format of marl-eval, whose
      `absolute_metrics` are here each seed's best evaluation, not a new one on ten times as many
      episodes.
    Raises:
      ConfigError: a directory without runs, a broken file, a place that holds something else;
        nothing is written.
    Reference: Agarwal et al. 2021 (statistical precipice); Gorsane et al. 2022 (protocol).
    """
    options = _options(last, resamples, drawn)
    roots = [directories] if isinstance(directories, str | os.PathLike) else list(directories)
    runs, warnings = collect.collect(roots)
    target = pathlib.Path(out) if out is not None else pathlib.Path(roots[0]) / "report"
    _check(target)
    found = study.build(runs, warnings)
    found = dataclasses.replace(
        found, warnings=tuple(filter(None, (*found.warnings, marl_eval.note(found))))
    )
    seen = summary.views(found, options)
    pictures = _pictures(found, seen, options)
    text = html_page.render(found, seen, pictures, options)
    numbers = summary.as_mapping(found, seen, options)
    _write(target, pictures, text, (numbers, marl_eval.as_mapping(found)))
    files = tuple(target / name for name in (PAGE, *pictures, NUMBERS, MARL_EVAL))
    _print(found, seen, files)
    rankings = {
        view.title: tuple(Ranked(row.label, row.seeds, row.iqm) for row in view.rows)
        for view in seen
    }
    return Report(target, files, rankings, found.warnings)


def _options(last: int, resamples: int, drawn: int) -> summary.Options:
    for name, value in (("last", last), ("resamples", resamples), ("drawn", drawn)):
        if value < 1:
            raise config.ConfigError(f"report: {name}={value} is less than 1; give at least 1")
    return summary.Options(last, resamples, drawn)


def _check(target: pathlib.Path) -> None:
    """Refuses a place whose files are not those of an earlier report."""
    if target.exists() and not target.is_dir():
        raise config.ConfigError(f"report: {str(target)!r} is no directory; choose another --out")
    if not target.is_dir() or (target / NUMBERS).is_file():
        return
    others = sorted(path.name for path in target.iterdir())
    if others:
        raise config.ConfigError(
            f"report: {str(target)!r} holds {others[0]}, which is no earlier report; choose "
            "another --out, a new or empty directory"
        )


def _write(
    target: pathlib.Path,
    pictures: Mapping[str, bytes],
    text: str,
    mappings: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> None:
    """Writes all files, the one that `_check` looks for first; an earlier report's others go."""
    numbers, raw = mappings
    try:
        target.mkdir(parents=True, exist_ok=True)
        metadata.write_json(target / NUMBERS, numbers)
        for old in (target / "improvement.png", *target.glob("sensitivity_*.png")):
            old.unlink(missing_ok=True)
        metadata.write_json(target / MARL_EVAL, raw)
        for name, data in {**pictures, PAGE: text.encode()}.items():
            _write_bytes(target / name, data)
    except OSError as error:
        raise config.ConfigError(
            f"report: cannot write to {str(target)!r} ({error.strerror}); choose another --out"
        ) from error


def _write_bytes(path: pathlib.Path, data: bytes) -> None:
    with storage.atomic(path) as file:
        file.write(data)


def _pictures(
    found: study.Study, seen: Sequence[summary.View], options: summary.Options
) -> dict[str, bytes]:
    """File name -> PNG, in the order of the page."""
    called = figures.short_names(found, summary.order(seen))
    drawings = {
        "curves.png": figures.curves(found, called, options),
        "profile.png": figures.profile(seen, called, options),
        "improvement.png": figures.improvement(seen, called, options),
    }
    for key in found.keys:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", key)
        drawings[f"sensitivity_{name}.png"] = figures.sensitivity(found, seen, key, options)
    return {name: figures.png(drawing) for name, drawing in drawings.items() if drawing is not None}


def _print(
    found: study.Study,
    seen: Sequence[summary.View],
    files: Sequence[pathlib.Path],
    console: rich.console.Console | None = None,
) -> None:
    console = console or progress.terminal()
    called = figures.names(summary.order(seen))
    for view in seen:
        table = rich.table.Table(title_justify="left", box=rich.box.SIMPLE_HEAD)
        table.title = rich.text.Text(f"{view.title}: {view.unit}")
        for head in ("rank", "IQM", "95 % interval", "seeds", "wall time"):
            table.add_column(head, justify="right", no_wrap=True)
        table.add_column("setting", overflow="fold")
        for rank, row in enumerate(view.rows, 1):
            middle, low, high = (f"{float(number):.3g}" for number in row.iqm)
            interval = "" if low == "nan" else f"{low} .. {high}"
            wall = progress.duration(row.cost.wall_s) if row.cost else ""
            cells = (str(rank), middle, interval, str(row.seeds), wall, called[row.label])
            table.add_row(*map(rich.text.Text, cells))
        console.print(table)
    for label, lines in (("warn", found.warnings), ("file", files)):
        for line in lines:
            console.print(rich.text.Text(f"  {label:<6} {line}"), soft_wrap=True)
