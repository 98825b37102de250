"""Tables of sweeps, searches and memory footprints."""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.table
import rich.text

from qmix_jax.console import progress


def sweep(
    labels: Sequence[str],
    results: Sequence[Any],
    index: str | os.PathLike[str] | None,
    objective: str,
    maximise: bool = True,
    console: rich.console.Console | None = None,
    absent: str = "not started",
) -> None:
    """Prints one line per job, the best first.

    Args:
      labels: overrides of each job.
      results: `Result` of each job, or None.
      index: the sweep's index file, if any.
      objective: caption that describes the objective.
      maximise: whether a larger objective is better.
      console: where to print; by default standard output.
      absent: note for a job without a result.
    """
    table = rich.table.Table(title="Sweep", title_justify="left", box=rich.box.SIMPLE_HEAD)
    for name in ("job", "objective", "seeds"):
        table.add_column(name, justify="right")
    table.add_column("overrides", overflow="fold")
    table.add_column("notes", overflow="fold")
    values = [math.nan if result is None else result.objective for result in results]
    sign = -1 if maximise else 1
    order = sorted(range(len(values)), key=lambda i: (math.isnan(values[i]), sign * values[i]))
    for i in order:
        result = results[i]
        note = absent if result is None else _note(result)
        seeds = "" if result is None else str(result.config.seeds)
        table.add_row(str(i), _format(values[i]), seeds, labels[i], note)
    files = [] if index is None else [f"file   {pathlib.Path(index)}"]
    _print(table, [objective, *files], console)


def search(
    trials: Sequence[tuple[int, float | None, Mapping[str, Any], str]],
    objective: str,
    path: str | os.PathLike[str],
    console: rich.console.Console | None = None,
) -> None:
    """Prints the best settings of a search.

    Args:
      trials: (number, value, parameters, state), the best first.
      objective: caption that describes the objective.
      path: file that lists all trials.
      console: where to print; by default standard output.
    """
    table = rich.table.Table(title="Search", title_justify="left", box=rich.box.SIMPLE_HEAD)
    for name in ("trial", "objective"):
        table.add_column(name, justify="right")
    table.add_column("setting", overflow="fold")
    table.add_column("state")
    for number, objective_value, parameters, state in trials:
        setting = " ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in parameters.items()
        )
        value = math.nan if objective_value is None else objective_value
        table.add_row(str(number), _format(value), setting, state.lower())
    _print(table, [objective, f"file   {pathlib.Path(path)}"], console)


def _note(result: Any) -> str:
    notes = {
        "interrupted": result.interrupted,
        "dropped at a rung": result.pruned,
        f"ended by {result.stopped}": result.stopped,
        f"{len(result.failures)} frozen": result.failures,
    }
    return ", ".join(note for note, applies in notes.items() if applies)


def _format(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def _print(
    table: rich.table.Table, lines: Sequence[str], console: rich.console.Console | None
) -> None:
    """Prints a table and indented lines below it."""
    with progress.output(console) as out:
        out.print(table)
        for line in lines:
            out.print(rich.text.Text(f"  {line}"), soft_wrap=True)


def footprint(
    title: str,
    members: int,
    plan: Any,
    needed: Any,
    console: rich.console.Console | None = None,
) -> None:
    """Prints the memory that a group needs, and the slices in which it would train.

    Args:
      title: of the table.
      members: number of members.
      plan: `plan.Plan` of a member.
      needed: `programs.Footprint` of the group.
      console: where to print; by default standard output.
    """
    human, count = progress.human, progress.count
    table = rich.table.Table(title_justify="left", box=rich.box.SIMPLE_HEAD)
    table.title = f"{title}: {count(members, 'member')}"
    table.add_column("per member")
    table.add_column("bytes", justify="right")
    for name, size in needed.memory.parts.items():
        if size:
            table.add_row(name, f"{human(size)}B")
    table.add_row("state", f"{human(needed.memory.persistent)}B", style="bold")
    table.add_row("temporary arrays", f"{human(needed.memory.temporaries)}B")
    if needed.memory.copies:
        table.add_row("for checkpoints", f"{human(needed.memory.copies)}B")
    slices = math.ceil(members / needed.together) if needed.together else 0
    fit = f"{count(needed.together, 'member')} at a time, {count(slices, 'slice')}"
    gradient_steps = plan.n_updates * plan.gradient_steps
    lines = (
        f"memory {human(needed.limit)}B for {count(needed.devices, 'device')}",
        f"fits   {fit if slices else 'not one member per device'}",
        f"steps  {plan.env_steps:,} env steps and {gradient_steps:,} gradient steps per member, "
        f"{human(plan.env_steps * members)} env steps in all",
    )
    _print(table, lines, console)
