"""Progress is one live line in a terminal or a notebook, and plain lines elsewhere."""

import io
import math
import sys

import numpy as np
import pytest
import rich.console

from qmix_jax.console import progress


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (0.5, "0.5"),
        (12_345, "12.3k"),
        (312_000, "312k"),
        (999_999, "1M"),
        (1_050_000, "1.05M"),
        (2.1e9, "2.1G"),
        (-1500, "-1.5k"),
        (math.inf, "inf"),
    ],
)
def test_human(number, text):
    assert progress.human(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "00:00"), (59.6, "01:00"), (249, "04:09"), (3849, "1:04:09"), (math.nan, "--:--")],
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


def test_spread():
    assert progress.spread(np.float32([1.0, 3.0])) == "2 ± 1.4"
    assert progress.spread(np.float32([0.5])) == "0.5"


def lines_of(calls, terminal=False):
    """Lines printed for `(seconds, arguments)` calls of `update`."""
    file = io.StringIO()
    now = [0.0]
    console = rich.console.Console(file=file, force_terminal=terminal, width=120)
    with progress.Progress(console, clock=lambda: now[0]) as display:
        display.note("[start] of a run")
        for seconds, arguments in calls:
            now[0] = seconds
            display.update(*arguments)
    return file.getvalue().splitlines()


def test_plain_lines_are_spaced_but_every_evaluation_shows():
    step = (312_000, 1_000_000, 24_100.0, 41.0)
    evaluation = (*step, np.float32([11.0, 13.0]), np.float32([0.5, 0.5]))
    lines = lines_of([(0, step), (9, step), (9.5, evaluation), (12, step), (20, step)])
    assert lines[0] == "[start] of a run"
    bare = "312k / 1M  24.1k steps/s  ETA 00:41"
    scores = "  return 12 ± 1.4  win rate 0.5 ± 0"
    assert lines[1:] == [bare, bare + scores, bare + scores]


def test_a_terminal_shows_one_live_line():
    calls = [(0, (1_000_000, 1_000_000, 24_100.0, 0.0, np.float32([12.0])))]
    text = "\n".join(lines_of(calls, terminal=True))
    assert "\x1b[" in text
    assert "[start] of a run" in text
    assert "return 12" in text


class Notebook:
    """Replaces `IPython.display`: records outputs and their updates."""

    def __init__(self):
        self.outputs = []

    def display(self, content, **_):
        self.outputs.append(content)
        return self

    def update(self, content, **_):
        self.outputs[-1] = content


def test_a_notebook_cell_has_one_output_that_is_updated(monkeypatch):
    notebook = Notebook()
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    with progress.Progress(rich.console.Console(force_jupyter=True)) as display:
        display.note("[start] of <a> run")
        for step in range(1, 6):
            display.update(step * 200, 1_000, 100.0, 5.0 - step, np.float32([step]))
    (output,) = notebook.outputs
    assert output["text/plain"] == "1k / 1k  100 steps/s  ETA 00:00  return 5"
    assert "[start] of &lt;a&gt; run" in output["text/html"], "notes are folded below the line"


def test_all_prints_of_an_output_are_one_output_of_a_notebook_cell(monkeypatch):
    outputs = []
    display = pytest.importorskip("IPython.display", reason="part of the notebook extra")
    monkeypatch.setattr(display, "display", outputs.append)
    with progress.output(rich.console.Console(force_jupyter=True)) as out:
        out.print("first")
        out.print("second")
    (output,) = outputs
    assert "first" in output.text and "second" in output.text


def test_outside_a_notebook_an_output_is_printed_at_once():
    file = io.StringIO()
    with progress.output(rich.console.Console(file=file)) as out:
        out.print("first")
        assert file.getvalue() == "first\n"
