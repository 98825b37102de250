"""Progress of a run: a live line in a terminal or a notebook cell, plain lines elsewhere."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import rich.console
import rich.progress
import rich.text

from qmix_jax.console import notebook

_LINE_INTERVAL_S = 10.0
"""Seconds between plain lines that report no evaluation."""


@contextlib.contextmanager
def output(console: rich.console.Console | None = None) -> Iterator[rich.console.Console]:
    """Yields a console, by default on standard output; a notebook cell shows one output for it."""
    console = console or rich.console.Console()
    with console if console.is_jupyter else contextlib.nullcontext():
        yield console


def human(number: float) -> str:
    """Formats a number with three significant digits and a unit: 999, 12.3k, 1.05M."""
    if not math.isfinite(number):
        return str(number)
    for unit in ("", "k", "M", "G"):
        if abs(number) < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"


def count(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """`04:09` below an hour, else `1:04:09`; `--:--` if not finite."""
    if not math.isfinite(seconds):
        return "--:--"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute:02}:{second:02}"


def spread(values: np.ndarray) -> str:
    """Mean and, for two or more seeds, standard deviation of f32[P]: `0.91 ± 0.03`."""
    mean = f"{np.mean(values):.3g}"
    return f"{mean} ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else mean


class Progress(contextlib.AbstractContextManager["Progress"]):
    """Context manager around a run that displays its progress."""

    def __init__(
        self,
        console: rich.console.Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        enabled: bool = True,
    ) -> None:
        """Creates an empty display.

        Args:
          console: where to print; by default standard output.
          clock: seconds, to space plain lines.
          enabled: False prints nothing.
        """
        self._console = console or rich.console.Console()
        self._enabled = enabled
        self._cell = notebook.CellOutput() if enabled and self._console.is_jupyter else None
        self._live = enabled and self._cell is None and self._console.is_terminal
        self._clock = clock
        self._next_line = -math.inf
        self._scores = ""
        self._bar = rich.progress.Progress(
            rich.progress.SpinnerColumn(finished_text="✓"),
            rich.progress.BarColumn(bar_width=12),
            rich.progress.TextColumn("{task.description}", markup=False),
            console=self._console,
            refresh_per_second=4,
            disable=not self._live,
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show_cursor(self) -> None:
        """Shows the cursor again, before the process exits without leaving the context."""
        self._console.show_cursor(True)

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        if self._cell is not None:
            self._cell.note(text)
        elif self._live:
            self._console.print(rich.text.Text(text), soft_wrap=True)
        elif self._enabled:
            print(text, file=self._console.file, flush=True)

    def update(
        self,
        env_steps: int,
        total: int,
        steps_per_s: float,
        eta_s: float,
        returns: np.ndarray | None = None,
        win_rates: np.ndarray | None = None,
    ) -> None:
        """Displays how far the run is, and its latest scores.

        Args:
          env_steps: env steps so far, of one member.
          total: env steps of the run, of one member.
          steps_per_s: env steps per second.
          eta_s: seconds to the end; NaN if unknown.
          returns: f32[P], greedy returns, if the run was evaluated since the last call.
          win_rates: f32[P] in [0, 1], likewise.
        """
        scores = "  ".join(
            f"{name} {spread(values)}"
            for name, values in (("return", returns), ("win rate", win_rates))
            if values is not None
        )
        self._scores = scores or self._scores
        line = f"{human(env_steps)} / {human(total)}  {human(steps_per_s)} steps/s"
        line += f"  ETA {duration(eta_s)}" + (f"  {self._scores}" if self._scores else "")
        if self._cell is not None:
            self._cell.update(line, env_steps / max(total, 1))
        elif self._live:
            self._bar.update(self._task, description=line, completed=env_steps, total=total)
            self._bar.refresh()
        elif scores or self._clock() >= self._next_line:
            self._next_line = self._clock() + _LINE_INTERVAL_S
            self.note(line)
