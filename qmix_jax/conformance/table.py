"""Prints results of the conformance suite as a table."""

import rich.box
import rich.console
import rich.table
import rich.text

from qmix_jax.conformance import build
from qmix_jax.console import progress

_MARKS = {"passed": "✓", "noted": "i", "failed": "✗", "not run": "-"}
_STYLES = {"passed": "green", "noted": "yellow", "failed": "bold red", "not run": "dim"}


def table(conformance: build.Conformance, console: rich.console.Console | None = None) -> None:
    """Prints one row per check, all findings, and a summary.

    Args:
      console: standard output by default.
    """
    rows = rich.table.Table(
        title=f"Environment {conformance.env}", title_justify="left", box=rich.box.SIMPLE_HEAD
    )
    rows.add_column("check", no_wrap=True)
    rows.add_column("", justify="center")
    rows.add_column("", no_wrap=True)
    for result in conformance.results:
        style = _STYLES[result.status]
        mark = rich.text.Text(_MARKS[result.status], style)
        rows.add_row(result.name, mark, rich.text.Text(result.status, style))
    lines = []
    for finding in (finding for result in conformance.results for finding in result.findings):
        label, style = ("error", "failed") if finding.fails else ("note", "noted")
        text = rich.text.Text(f"  {label}: ", _STYLES[style])
        lines.append(text.append(finding.line(), "default"))
    statuses = [result.status for result in conformance.results]
    counts = [f"{statuses.count(status)} {status}" for status in _MARKS if status in statuses]
    verdict = "satisfies" if conformance.passed else "violates"
    summary = f"  {conformance.env} {verdict} the contract: {', '.join(counts)}"
    with progress.output(console) as out:
        out.print(rows)
        for line in (*lines, rich.text.Text(summary)):
            out.print(line, soft_wrap=True)
