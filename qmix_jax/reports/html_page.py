"""The report as one self-contained HTML file: pictures are embedded, no scripts."""

import base64
from collections.abc import Iterable, Mapping, Sequence

import jinja2
import numpy as np

from qmix_jax.console import progress
from qmix_jax.reports import collect, figures, marl_eval, study, summary

_TEXT_COLUMNS = ("setting", "key", "values", "item")
"""Aligned left."""


def render(
    data: study.Study,
    rankings: Sequence[summary.Ranking],
    pictures: Mapping[str, bytes],
    options: summary.Options,
) -> str:
    """Returns the page as HTML.

    Args:
      data: the runs.
      rankings: as from `summary.rankings`.
      pictures: file name -> PNG, in the order of the page.
      options: of the report.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("qmix_jax", "reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    order = summary.order(rankings)
    return environment.get_template("report.html.j2").render(
        text_columns=_TEXT_COLUMNS,
        counts=_counts(data),
        warnings=data.warnings,
        rankings=[_ranking_table(ranking, figures.numbered(order)) for ranking in rankings],
        options=options,
        normalised=any("normalised" in ranking.unit for ranking in rankings),
        pictures=[
            (name.removesuffix(".png").replace("_", " ", 1), base64.b64encode(png).decode())
            for name, png in pictures.items()
        ],
        not_drawn=order[options.top :],
        keys=[(key, ", ".join(data.values(key))) for key in data.keys],
        task_keys=data.task_keys,
        provenance=_provenance(data),
        paths=dict.fromkeys(str(run.path) for run in data.runs),
        caveat=marl_eval.CAVEAT,
    )


def _counts(data: study.Study) -> str:
    """Returns `2 settings, 1 task, 4 runs, 8 seeds`."""
    counts = {
        "setting": len(data.settings),
        "task": len(data.tasks),
        "run": len({run.path for run in data.runs}),
        "seed": sum(len(r.seeds) for task in data.tasks for r in task.results.values()),
    }
    return ", ".join(progress.count(number, noun) for noun, number in counts.items())


def _ranking_table(
    ranking: summary.Ranking, names: Mapping[str, str]
) -> tuple[str, list[str], list[list[str]]]:
    """Returns title, column headings, and a row of cells per setting."""
    columns = ["rank", "setting", "seeds", f"IQM of {ranking.unit} [95 % interval]", "mean"]
    columns += ["min .. max", "env steps"]
    if ranking.rows[0].cost:
        columns += ["wall time", "env steps/s", "members"]
    rows = []
    for rank, row in enumerate(ranking.rows, 1):
        values, iqm = row.pooled_scores, row.iqm
        interval = "" if np.isnan(iqm.low) else f" [{float(iqm.low):.3g}, {float(iqm.high):.3g}]"
        cells = [str(rank), names[row.setting], str(row.seeds), f"{float(iqm.value):.3g}{interval}"]
        cells += [f"{values.mean():.3g}", f"{values.min():.3g} .. {values.max():.3g}"]
        rows.append([*cells, f"{row.env_steps:,}", *_cost(row.cost)])
    return ranking.title, columns, rows


def _cost(cost: summary.Cost | None) -> list[str]:
    if cost is None:
        return []
    speed = "" if np.isnan(cost.steps_per_s) else progress.human(cost.steps_per_s)
    return [progress.duration(cost.wall_s), speed, f"{cost.members}{'*' if cost.shared else ''}"]


def _provenance(data: study.Study) -> list[tuple[str, str]]:
    """Returns name of a fact -> its distinct values over all runs."""
    facts: dict[str, dict[str, None]] = {}
    for name, text in (fact for run in data.runs for fact in _facts(run)):
        facts.setdefault(name, {})[text] = None
    return [(name, "; ".join(texts)) for name, texts in facts.items()]


def _facts(run: collect.RunDirectory) -> Iterable[tuple[str, str]]:
    device = collect.lookup(run.manifest, "device") or {}
    kind = f"{device.get('kind')} ({device.get('platform')})"
    yield "device", f"{device.get('count', '?')} x {kind}"
    yield "CPU cores", str(run.manifest.get("cpu_count"))
    commit = collect.lookup(run.manifest, "git", "commit")
    if commit:
        dirty = ", with uncommitted changes" if collect.lookup(run.manifest, "git", "dirty") else ""
        yield "commit", f"{commit}{dirty}"
    for name, version in (collect.lookup(run.manifest, "versions") or {}).items():
        if version is not None:
            yield str(name), str(version)
