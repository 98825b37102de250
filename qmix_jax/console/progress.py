"""What a person sees while a run goes on: one live line in a terminal, plain lines elsewhere."""

import contextlib
import math
import time
from collections.abc import Callable

import numpy as np
import rich.console
import rich.progress
import rich.text

_QUIET_SECONDS = 10.0
"""Without a terminal, updates that bring no evaluation are at least this far apart."""


def terminal() -> rich.console.Console:
    """Standard output; in a notebook as plain text, where rich's live display needs ipywidgets."""
    return rich.console.Console(force_jupyter=False)


def human(number: float) -> str:
    """Three significant digits and a unit: 999, 12.3k, 1.05M."""
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
    """Minutes and seconds, 04:09, and hours where there are any, 1:04:09; --:-- if unknown."""
    if not math.isfinite(seconds):
        return "--:--"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute:02}:{second:02}"


def spread(values: np.ndarray) -> str:
    """Mean over seeds and, for two seeds or more, their standard deviation: `0.91 ± 0.03`.

    Args:
      values: f32[P].
    """
    mean = f"{np.mean(values):.3g}"
    return f"{mean} ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else mean


class Progress(contextlib.AbstractContextManager["Progress"]):
    """Shows how far a run has come; a context manager around the whole run."""

    def __init__(
        self,
        console: rich.console.Console | None = None,
        clock: Callable[[], float] = time.monotonic,
        shown: bool = True,
    ) -> None:
        """Starts with an empty display.

        Args:
          console: where to show it; standard output where left out.
          clock: seconds, for spacing plain lines.
          shown: False shows nothing at all.
        """
        self._console = console or terminal()
        self._shown = shown
        self._live = shown and self._console.is_terminal
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

    def abandon(self) -> None:
        """Gives the terminal its cursor back, for a process that is about to end at once."""
        self._console.show_cursor(True)

    def note(self, text: str) -> None:
        """Shows a line that stays."""
        if self._live:
            self._console.print(rich.text.Text(text), soft_wrap=True)
        elif self._shown:
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
        """Tells how far the run is.

        Args:
          env_steps: env steps done, of one member.
          total: env steps of the whole run.
          steps_per_s: env steps per second.
          eta_s: seconds to go; NaN if unknown.
          returns: f32[P], greedy returns of an evaluation, if there was one since the last call.
          win_rates: f32[P] in [0, 1], likewise.
        """
        scores = (("return", returns), ("win rate", win_rates))
        shown = "  ".join(
            f"{name} {spread(values)}" for name, values in scores if values is not None
        )
        self._scores = shown or self._scores
        line = f"{human(env_steps)} / {human(total)}  {human(steps_per_s)} steps/s"
        line += f"  ETA {duration(eta_s)}" + (f"  {self._scores}" if self._scores else "")
        if self._live:
            self._bar.update(self._task, description=line, completed=env_steps, total=total)
            self._bar.refresh()
        elif shown or self._clock() >= self._next_line:
            self._next_line = self._clock() + _QUIET_SECONDS
            self.note(line)


__all__ = ["Progress", "count", "duration", "human", "spread"]
