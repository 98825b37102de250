"""Progress of a run in a notebook cell: one output, updated in place."""

import html
import importlib
from typing import Any


class CellOutput:
    """The single output of the current cell: the latest line, with all notes folded below it."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._handle: Any = None

    def note(self, text: str) -> None:
        """Shows a note as the line and adds it to the folded notes."""
        self._notes.append(text)
        self.update(text)

    def update(self, line: str, fraction: float | None = None) -> None:
        """Replaces the line; `fraction` in [0, 1] adds a bar of this length."""
        bar = "" if fraction is None else f'<progress value="{fraction:.3f}"></progress> '
        summary = f'{bar}<code style="white-space: pre">{html.escape(line)}</code>'
        notes = html.escape("\n".join(self._notes))
        content = {
            "text/plain": line,
            "text/html": f"<details><summary>{summary}</summary><pre>{notes}</pre></details>",
        }
        if self._handle is None:
            display = importlib.import_module("IPython.display").display
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
