"""`qmix_jax.report`: from run directories to a report on disk and in the terminal."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.table
import rich.text

from qmix_jax import config, reprs
from qmix_jax.console import progress
from qmix_jax.reports import collect, figures, html_page, marl_eval, study, summary
from qmix_jax.runs import metadata, scores, storage

PAGE, STATISTICS, MARL_EVAL = "report.html", "statistics.json", "marl_eval.json"


@dataclasses.dataclass(frozen=True)
class Report:
    """A report on disk.

    Attributes:
      directory: its directory.
      files: everything in it, `report.html` first.
      rankings: task, or `all tasks`, -> settings, the best first.
      warnings: one line per run that is unfinished, skipped, repeated or frozen.
    """

    directory: pathlib.Path
    files: tuple[pathlib.Path, ...]
    rankings: Mapping[str, tuple[summary.RankingRow, ...]]
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
    top: int = 10,
) -> Report:
    """Compares the settings of runs and sweeps: prints a ranking, writes a page and figures.

    Runs that differ only in `seed`, `seeds` and `name` are one setting; their seeds are pooled.
    Settings are compared by the greedy win rate, or by the return if there is no win rate.

    Args:
      directories: one or several run directories, sweeps, or folders of either.
      out: a new or empty directory, or that of an earlier report, which is replaced; by default
        `report` in the first directory.
      last: a seed's score is its mean over this many of its last evaluations.
      resamples: bootstrap samples of the intervals.
      top: number of settings in a figure, the best ones; tables have all.
    Returns:
      A `Report`. On disk: `report.html` (self-contained, works offline), `curves.png`,
      `profile.png`, `improvement.png` (for two or more settings), `sensitivity_<key>.png` per swept
      key, `statistics.json`, and `marl_eval.json` in the format of marl-eval.
    Raises:
      ConfigError: a directory without runs, a broken file, or an `out` with other files in it;
        nothing is written.
    Reference: Agarwal et al. 2021 (statistical precipice); Gorsane et al. 2022 (protocol).
      Deviation: `absolute_metrics` in `marl_eval.json` are each seed's best evaluation, not a new
      one on ten times as many episodes.
    """
    for name, value in (("last", last), ("resamples", resamples), ("top", top)):
        if value < 1:
            raise config.ConfigError(f"report: {name}={value} is less than 1; give at least 1")
    options = summary.Options(last, resamples, top)
    roots = [directories] if isinstance(directories, str | os.PathLike) else list(directories)
    data = study.build(*collect.collect(roots))
    target = pathlib.Path(out) if out is not None else pathlib.Path(roots[0]) / "report"
    _check_target(target)
    warnings = (*data.warnings, *marl_eval.seed_warnings(data))
    data = dataclasses.replace(data, warnings=warnings)
    rankings = summary.rankings(data, options)
    pictures = _pictures(data, rankings, options)
    mappings = {
        STATISTICS: summary.as_mapping(data, rankings, options),
        MARL_EVAL: marl_eval.as_mapping(data),
    }
    _write(target, mappings, pictures, html_page.render(data, rankings, pictures, options))
    files = tuple(target / name for name in (PAGE, *pictures, *mappings))
    _print(rankings, data.warnings, files)
    return Report(target, files, {r.title: r.rows for r in rankings}, data.warnings)


def _check_target(target: pathlib.Path) -> None:
    """Raises: ConfigError for a directory with files other than an earlier report's."""
    if target.exists() and not target.is_dir():
        raise config.ConfigError(
            f"report: {str(target)!r} is not a directory; choose another --out"
        )
    if not target.is_dir() or (target / STATISTICS).is_file():
        return
    others = sorted(path.name for path in target.iterdir())
    if others:
        raise config.ConfigError(
            f"report: {str(target)!r} contains {others[0]} and no earlier report; choose another "
            "--out, a new or empty directory"
        )


def _write(
    target: pathlib.Path,
    mappings: Mapping[str, Mapping[str, Any]],
    pictures: Mapping[str, bytes],
    page: str,
) -> None:
    """Writes all files, `statistics.json` (see `_check_target`) first; removes old pictures."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, mapping in mappings.items():
            metadata.write_json(target / name, mapping)
        for old in (target / "improvement.png", *target.glob("sensitivity_*.png")):
            old.unlink(missing_ok=True)
        for name, content in {**pictures, PAGE: page.encode()}.items():
            _write_bytes(target / name, content)
    except OSError as error:
        raise config.ConfigError(
            f"report: cannot write to {str(target)!r} ({error.strerror}); choose another --out"
        ) from error


def _write_bytes(path: pathlib.Path, content: bytes) -> None:
    with storage.atomic(path) as file:
        file.write(content)


def _pictures(
    data: study.Study, rankings: Sequence[summary.Ranking], options: summary.Options
) -> dict[str, bytes]:
    """Returns file name -> PNG, in the order of the page."""
    names = figures.numbered_short(data, summary.order(rankings))
    drawings = {
        "curves.png": figures.curves(data, names, options),
        "profile.png": figures.profile(rankings, names, options),
        "improvement.png": figures.improvement(rankings, names, options),
    }
    for key in data.keys:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", key)
        drawings[f"sensitivity_{name}.png"] = figures.sensitivity(data, rankings, key, options)
    return {name: figures.png(drawing) for name, drawing in drawings.items() if drawing is not None}


def _print(
    rankings: Sequence[summary.Ranking], warnings: Sequence[str], files: Sequence[pathlib.Path]
) -> None:
    names = figures.numbered(summary.order(rankings))
    lines = [("warning", text) for text in warnings] + [("file", str(path)) for path in files]
    with progress.output() as out:
        for ranking in rankings:
            out.print(_table(ranking, names))
        for label, line in lines:
            out.print(rich.text.Text(f"  {label:<8} {line}"), soft_wrap=True)


def _table(ranking: summary.Ranking, names: Mapping[str, str]) -> rich.table.Table:
    table = rich.table.Table(title_justify="left", box=rich.box.SIMPLE_HEAD)
    table.title = rich.text.Text(f"{ranking.title}: {ranking.unit}")
    for heading in ("rank", "IQM", "95 % interval", "seeds", "wall time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("setting", overflow="fold")
    for rank, row in enumerate(ranking.rows, 1):
        value, low, high = (f"{float(number):.3g}" for number in row.iqm)
        interval = "" if low == "nan" else f"{low} .. {high}"
        wall = progress.duration(row.cost.wall_s) if row.cost else ""
        cells = (str(rank), value, interval, str(row.seeds), wall, names[row.setting])
        table.add_row(*map(rich.text.Text, cells))
    return table
