"""Tables of sweeps, searches and the memory that a group needs."""

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
      labels: what tells the jobs apart.
      results: `api.Result` of each, None for one without.
      index: the sweep's file, if it has one.
      objective: what jobs are compared by, in words.
      maximise: whether more of it is better.
      console: where to print; standard output where left out.
      absent: what to say of a job without a result.
    """
    console = console or progress.terminal()
    table = rich.table.Table(title="Sweep", title_justify="left", box=rich.box.SIMPLE_HEAD)
    for name in ("job", "objective", "seeds"):
        table.add_column(name, justify="right")
    table.add_column("overrides", overflow="fold")
    table.add_column("notes", overflow="fold")
    known = [math.nan if result is None else result.objective for result in results]
    sign = -1 if maximise else 1
    order = sorted(range(len(known)), key=lambda i: (math.isnan(known[i]), sign * known[i]))
    for i in order:
        result = results[i]
        note = absent if result is None else _note(result)
        seeds = "" if result is None else str(result.config.seeds)
        table.add_row(str(i), _number(known[i]), seeds, labels[i], note)
    console.print(table)
    console.print(rich.text.Text(f"  {objective}"), soft_wrap=True)
    if index is not None:
        console.print(rich.text.Text(f"  file   {pathlib.Path(index)}"), soft_wrap=True)


def search(
    trials: Sequence[tuple[int, float | None, Mapping[str, Any], str]],
    objective: str,
    path: str | os.PathLike[str],
    console: rich.console.Console | None = None,
) -> None:
    """Prints the best settings of a search.

    Args:
      trials: (number, value, parameters, state), the best first.
      objective: what they are compared by, in words.
      path: of the file with all of them.
      console: where to print; standard output where left out.
    """
    console = console or progress.terminal()
    table = rich.table.Table(title="Search", title_justify="left", box=rich.box.SIMPLE_HEAD)
    for name in ("trial", "objective"):
        table.add_column(name, justify="right")
    table.add_column("setting", overflow="fold")
    table.add_column("state")
    for number, value, values, state in trials:
        setting = " ".join(
            f"{key}={one:.4g}" if isinstance(one, float) else f"{key}={one}"
            for key, one in values.items()
        )
        known = math.nan if value is None else value
        table.add_row(str(number), _number(known), setting, state.lower())
    console.print(table)
    for line in (objective, f"file   {pathlib.Path(path)}"):
        console.print(rich.text.Text(f"  {line}"), soft_wrap=True)


def _note(result: Any) -> str:
    notes = ["interrupted"] * result.interrupted + ["dropped at a rung"] * result.pruned
    notes += [f"ended by {result.stopped}"] if result.stopped else []
    return ", ".join(notes + [f"{len(result.failures)} frozen"] * bool(result.failures))


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def footprint(
    title: str,
    members: int,
    plan: Any,
    needed: Any,
    console: rich.console.Console | None = None,
) -> None:
    """Prints what a group would take, and in how many slices it would train.

    Args:
      title: what tells it from others.
      members: how many it has.
      plan: `plan.Plan` of a member.
      needed: its `programs.Footprint`.
      console: where to print; standard output where left out.
    """
    console = console or progress.terminal()
    human, count = progress.human, progress.count
    table = rich.table.Table(title_justify="left", box=rich.box.SIMPLE_HEAD)
    table.title = f"{title}: {count(members, 'member')}"
    table.add_column("a member")
    table.add_column("bytes", justify="right")
    for name, size in needed.memory.parts.items():
        if size:
            table.add_row(name, f"{human(size)}B")
    table.add_row("kept", f"{human(needed.memory.persistent)}B", style="bold")
    table.add_row("while it runs", f"{human(needed.memory.temporaries)}B")
    if needed.memory.copies:
        table.add_row("for checkpoints", f"{human(needed.memory.copies)}B")
    console.print(table)
    slices = math.ceil(members / needed.together) if needed.together else 0
    fit = f"{count(needed.together, 'member')} at a time, {count(slices, 'slice')}"
    for label, text in (
        ("memory", f"{human(needed.limit)}B for {count(needed.devices, 'device')}"),
        ("fits", fit if slices else "not one member per device"),
        ("steps", f"{plan.env_steps:,} env steps and {plan.n_updates * plan.gradient_steps:,} "
                  f"gradient steps per member, {human(plan.env_steps * members)} env steps in all"),
    ):  # fmt: skip
        console.print(rich.text.Text(f"  {label:<6} {text}"), soft_wrap=True)
