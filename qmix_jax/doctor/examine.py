"""`qmix_jax.run_doctor`: checks the installation and the machine, with a fix for each problem."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
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
    """Result of `run_doctor`.

    Attributes:
      checks: one `Diagnostic` per check.
    """

    checks: tuple[Diagnostic, ...]

    @property
    def ok(self) -> bool:
        """No check has failed; there may be warnings."""
        return all(check.status != FAIL for check in self.checks)

    def summary(self) -> dict[str, Any]:
        """Fields of `repr`: the verdict, and the names of checks by status."""
        names = {s: [c.name for c in self.checks if c.status == s] for s in (FAIL, WARN)}
        fields = {status: ", ".join(checks) for status, checks in names.items() if checks}
        return {"ok": self.ok, "checks": len(self.checks), **fields}

    __repr__, _repr_html_ = reprs.text, reprs.html


def run_doctor(self_test: bool = True, as_json: bool = False) -> Diagnosis:
    """Checks versions, devices, the compile cache, known conflicts and a short run; prints them.

    Args:
      self_test: also train, twice, on a one-step game; about ten seconds.
      as_json: print JSON instead: `ok`, and `checks` with the fields of a `Diagnostic`.
    Returns:
      A `Diagnosis` of what was printed.
    """
    checks: list[Diagnostic] = []
    with progress.output(rich.console.Console(quiet=as_json)) as out:
        for _, group in itertools.groupby(_checks(self_test), key=lambda check: check.section):
            section = list(group)
            checks += section
            _print_section(section, out)
        diagnosis = Diagnosis(tuple(checks))
        out.print(_summary(diagnosis))
    if as_json:
        mapping = {"ok": diagnosis.ok, "checks": [check._asdict() for check in checks]}
        print(json.dumps(mapping, indent=2))
    return diagnosis


def _checks(with_self_test: bool) -> Iterator[Diagnostic]:
    yield from packages.check()
    yield from machine.check()
    yield from conflicts.check()
    if with_self_test:
        yield from self_test.check()


def _print_section(checks: list[Diagnostic], console: rich.console.Console) -> None:
    """Prints a heading and a line per check, with the fix of a problem below it."""
    console.print(rich.text.Text(checks[0].section, "bold"))
    table = rich.table.Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=6, justify="right", no_wrap=True)
    table.add_column(no_wrap=True, min_width=16)
    table.add_column(overflow="fold")
    for check in checks:
        style = _STYLES[check.status]
        message = rich.text.Text(check.message)
        if check.fix:
            message.append(f"\nfix: {check.fix}", style)
        table.add_row(rich.text.Text(check.status, style), rich.text.Text(check.name), message)
    console.print(table)
    console.print()


def _summary(diagnosis: Diagnosis) -> rich.text.Text:
    failures, warnings = (sum(c.status == s for c in diagnosis.checks) for s in (FAIL, WARN))
    if failures:
        return rich.text.Text(f"{progress.count(failures, 'check')} failed", _STYLES[FAIL])
    if warnings:
        return rich.text.Text(f"works, with {progress.count(warnings, 'warning')}", _STYLES[WARN])
    return rich.text.Text("no problems found", _STYLES[OK])
