"""The report as one HTML file that needs nothing else: pictures are inside, no scripts."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from qmix_jax.console import progress
from qmix_jax.reports import collect, figures, marl_eval, study, summary

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p.lead, p.note, caption { color: #666; } p.note { font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid #ddd;
         font-variant-numeric: tabular-nums; white-space: nowrap; }
th { color: #666; font-weight: 600; vertical-align: bottom; }
th.text, td.text { text-align: left; white-space: normal; overflow-wrap: anywhere;
                   min-width: 9rem; }
img { max-width: 100%; height: auto; }
.warnings { background: #fdf3e7; border-left: 4px solid #D55E00; padding: .6rem 1rem; }
.warnings h2 { margin: 0; } .warnings li, code { overflow-wrap: anywhere; }
"""
_TEXT = ("setting", "key", "values", "what")
"""Columns that are read, not compared."""


def render(
    found: study.Study,
    seen: Sequence[summary.View],
    pictures: Mapping[str, bytes],
    options: summary.Options,
) -> str:
    """The whole page.

    Args:
      found: what was run.
      seen: the rankings.
      pictures: file name -> PNG, in the order in which they are shown.
      options: how the numbers were made.
    """
    order = summary.order(seen)
    rest = order[options.drawn :]
    parts = [
        "<h1>Sweep report</h1>",
        f'<p class="lead">{_escape(_lead(found))}</p>',
        _warnings(found),
        "<h2>Ranking</h2>",
        *(_ranking(view, figures.names(order)) for view in seen),
        f'<p class="note">{_escape(method(seen, options))}</p>',
        *(_picture(name, data) for name, data in pictures.items()),
        _names("Settings that the figures leave out", rest),
        "<h2>What was run</h2>",
        _keys(found),
        _provenance(found),
        f'<p class="note">{_escape(marl_eval.CAVEAT)}.</p>',
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(_lead(found))}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def columns(view: summary.View, called: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """The ranking as text: the headings, and a row of cells per setting."""
    heads = ["rank", "setting", "seeds", f"IQM of {view.unit} [95 % interval]", "mean"]
    heads += ["min .. max", "env steps"]
    if view.rows[0].cost:
        heads += ["wall time", "env steps/s", "members"]
    return heads, [
        [str(rank), called[row.label], *_numbers(row), *_cost(row.cost)]
        for rank, row in enumerate(view.rows, 1)
    ]


def method(seen: Sequence[summary.View], options: summary.Options) -> str:
    """How the numbers came about, in a few sentences."""
    text = (
        f"A seed's score is its mean over its last {options.last} greedy evaluations. IQM: "
        "interquartile mean over seeds. Intervals: percentiles of a stratified bootstrap with "
        f"{options.resamples:,} resamples; with few seeds they are too narrow, with one there is "
        "none. Wall time (compile, train, evaluate) and env steps/s are those of the program a run "
        "was trained in, medians over runs; where members is marked *, runs of other settings "
        "were trained in it at the same time."
    )
    if any("normalised" in view.unit for view in seen):
        text += (
            " Over all tasks, returns are normalised per task: 0 is the lowest and 1 the highest "
            "evaluation of any seed at any time."
        )
    return text


def _lead(found: study.Study) -> str:
    seeds = sum(len(cell.seeds) for task in found.tasks for cell in task.cells.values())
    counts = (
        (len(found.settings), "setting"),
        (len(found.tasks), "task"),
        (len({str(run.path) for run in found.runs}), "run"),
        (seeds, "seed"),
    )
    return ", ".join(f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s" for n, noun in counts)


def _numbers(row: summary.RankingRow) -> list[str]:
    values = np.concatenate(row.scores)
    middle = f"{float(row.iqm.value):.3g}"
    if not np.isnan(row.iqm.low):
        middle += f" [{float(row.iqm.low):.3g}, {float(row.iqm.high):.3g}]"
    return [
        str(row.seeds),
        middle,
        f"{values.mean():.3g}",
        f"{values.min():.3g} .. {values.max():.3g}",
        f"{row.env_steps:,}",
    ]


def _cost(cost: summary.Cost | None) -> list[str]:
    if cost is None:
        return []
    speed = "" if np.isnan(cost.steps_per_s) else progress.human(cost.steps_per_s)
    return [progress.duration(cost.wall_s), speed, f"{cost.members}{'*' if cost.shared else ''}"]


def _ranking(view: summary.View, called: Mapping[str, str]) -> str:
    heads, rows = columns(view, called)
    return _table(heads, rows, view.title)


def _warnings(found: study.Study) -> str:
    if not found.warnings:
        return ""
    items = "".join(f"<li>{_escape(text)}</li>" for text in found.warnings)
    return f'<div class="warnings"><h2>Warnings</h2><ul>{items}</ul></div>'


def _picture(name: str, data: bytes) -> str:
    encoded = base64.b64encode(data).decode()
    alt = _escape(name.removesuffix(".png").replace("_", " ", 1))
    return f'<p><img alt="{alt}" src="data:image/png;base64,{encoded}"></p>'


def _names(title: str, labels: Sequence[str]) -> str:
    if not labels:
        return ""
    return f'<p class="note">{_escape(title)}: {_escape("; ".join(labels))}.</p>'


def _keys(found: study.Study) -> str:
    """Swept keys with their values; keys that belong to the tasks."""
    rows = [
        [key, ", ".join(dict.fromkeys(own[key] for own in found.settings.values() if key in own))]
        for key in found.keys
    ]
    table = _table(["key", "values"], rows, "Keys in which settings differ") if rows else ""
    return table + _names("Keys that differ between tasks only", found.task_keys)


def _provenance(found: study.Study) -> str:
    rows: dict[str, dict[str, None]] = {}
    for run in found.runs:
        for name, text in _facts(run):
            rows.setdefault(name, {})[text] = None
    cells = [[name, "; ".join(texts)] for name, texts in rows.items()]
    paths = dict.fromkeys(str(run.path) for run in found.runs)
    items = "".join(f"<li><code>{_escape(path)}</code></li>" for path in paths)
    runs = f"<details><summary>Run directories</summary><ul>{items}</ul></details>"
    return _table(["what", "values"], cells, "Hardware and versions") + runs


def _facts(run: collect.RunDirectory) -> Iterable[tuple[str, str]]:
    device = collect.lookup(run.manifest, "device") or {}
    yield (
        "device",
        " ".join(
            [f"{device.get('count', '?')} x", f"{device.get('kind')} ({device.get('platform')})"]
        ),
    )
    yield "CPU cores", str(run.manifest.get("cpu_count"))
    commit = collect.lookup(run.manifest, "git", "commit")
    if commit:
        dirty = ", with changes" if collect.lookup(run.manifest, "git", "dirty") else ""
        yield "commit", f"{commit}{dirty}"
    for name, version in (collect.lookup(run.manifest, "versions") or {}).items():
        if version is not None:
            yield str(name), str(version)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    kinds = [' class="text"' if head in _TEXT else "" for head in heads]
    top = "".join(f"<th{k}>{_escape(h)}</th>" for k, h in zip(kinds, heads, strict=True))
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{k}>{_escape(cell)}</td>" for k, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><caption>{_escape(caption)}</caption>\n<thead><tr>{top}</tr>'
        f"</thead>\n<tbody>{body}</tbody></table></div>"
    )


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
