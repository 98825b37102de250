"""The answers of the conformance suite as a table."""

import rich.box
import rich.console
import rich.table
import rich.text

from qmix_jax.conformance import build
from qmix_jax.console import progress

_MARKS = {"passed": "✓", "noted": "i", "failed": "✗", "not run": "-"}
_STYLES = {"passed": "green", "noted": "yellow", "failed": "bold red", "not run": "dim"}


def table(found: build.Conformance, console: rich.console.Console | None = None) -> None:
    """Prints a line per check, what is wrong below it, and the sum.

    Args:
      console: where to print; standard output where left out.
    """
    console = console or progress.terminal()
    shown = rich.table.Table(
        title=f"Environment {found.env}", title_justify="left", box=rich.box.SIMPLE_HEAD
    )
    shown.add_column("check", no_wrap=True)
    shown.add_column("", justify="center")
    shown.add_column("", no_wrap=True)
    for answer in found.answers:
        style = _STYLES[answer.status]
        mark = rich.text.Text(_MARKS[answer.status], style)
        shown.add_row(answer.name, mark, rich.text.Text(answer.status, style))
    console.print(shown)
    for answer in found.answers:
        for finding in answer.findings:
            word = "error" if finding.fails else "note"
            style = _STYLES["failed" if finding.fails else "noted"]
            line = rich.text.Text(f"  {word}: ", style).append(finding.line(), "default")
            console.print(line, soft_wrap=True)
    console.print(rich.text.Text(f"  {_sum(found)}"), soft_wrap=True)


def _sum(found: build.Conformance) -> str:
    counts = {status: sum(answer.status == status for answer in found.answers) for status in _MARKS}
    told = [f"{number} {status}" for status, number in counts.items() if number]
    verdict = "keeps the contract" if found.passed else "breaks the contract"
    return f"{found.env} {verdict}: {', '.join(told)}"
