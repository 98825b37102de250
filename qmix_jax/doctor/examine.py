"""Examines the installation and the machine, and says what to do where something is wrong."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import rich.console
import rich.table
import rich.text

from qmix_jax import reprs
from qmix_jax.console import progress
from qmix_jax.doctor import conflicts, machine, packages, self_test
from qmix_jax.doctor.checks import FAIL, OK, WARN, Diagnostic

_STYLES = {OK: "green", WARN: "yellow", FAIL: "bold red"}


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Attributes:
    checks: one `Diagnostic` per check.
    """

    checks: tuple[Diagnostic, ...]

    @property
    def ok(self) -> bool:
        """Nothing has failed; there may be warnings."""
        return all(check.status != FAIL for check in self.checks)

    def summary(self) -> dict[str, Any]:
        """Fields of `repr`: the verdict, and the names of checks by status."""
        names = {s: [c.name for c in self.checks if c.status == s] for s in (FAIL, WARN)}
        fields = {status: ", ".join(checks) for status, checks in names.items() if checks}
        return {"ok": self.ok, "checks": len(self.checks), **fields}

    __repr__, _repr_html_ = reprs.text, reprs.html


def run_doctor(self_test: bool = True, as_json: bool = False) -> Diagnosis:
    """Prints versions, devices, the compile cache, known conflicts, and how a run of seconds went.

    Args:
      self_test: also train, twice, on a game of one step; about ten seconds.
      as_json: print JSON instead: `ok`, and `checks` with the fields of a check.
    Returns:
      A `Diagnosis` of what was printed.
    """
    found: list[Diagnostic] = []
    console = progress.terminal()
    for _, checks in itertools.groupby(_checks(self_test), key=lambda check: check.section):
        own = [(found.append(check), check)[1] for check in checks]
        if not as_json:
            _show(own, console)
    done = Diagnosis(tuple(found))
    if as_json:
        text = {"ok": done.ok, "checks": [check._asdict() for check in found]}
        print(json.dumps(text, indent=2))
    else:
        console.print(_summary(done))
    return done


def _checks(self_tested: bool) -> Iterator[Diagnostic]:
    parts: list[Callable[[], Iterator[Diagnostic]]] = [
        packages.check,
        machine.check,
        conflicts.check,
    ]
    for part in [*parts, *([self_test.check] if self_tested else [])]:
        yield from part()


def _show(checks: list[Diagnostic], console: rich.console.Console) -> None:
    """A section: its heading, a line per check, and fixes below what they fix."""
    console.print(rich.text.Text(checks[0].section, "bold"))
    table = rich.table.Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=6, justify="right", no_wrap=True)
    table.add_column(no_wrap=True, min_width=16)
    table.add_column(overflow="fold")
    for check in checks:
        style = _STYLES[check.status]
        found = rich.text.Text(check.found)
        if check.fix:
            found.append(f"\nfix: {check.fix}", style)
        table.add_row(rich.text.Text(check.status, style), rich.text.Text(check.name), found)
    console.print(table)
    console.print()


def _summary(done: Diagnosis) -> rich.text.Text:
    counts = {s: sum(check.status == s for check in done.checks) for s in (OK, WARN, FAIL)}
    failed = counts[FAIL]
    if failed:
        return rich.text.Text(f"{progress.count(failed, 'check')} failed", _STYLES[FAIL])
    if counts[WARN]:
        text = f"works, with {progress.count(counts[WARN], 'warning')}"
        return rich.text.Text(text, _STYLES[WARN])
    return rich.text.Text("all is well", _STYLES[OK])
