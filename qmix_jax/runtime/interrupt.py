"""Ctrl-C: the first one asks the run to end cleanly, the second one ends the process at once."""

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType


class Interrupt(contextlib.AbstractContextManager["Interrupt"]):
    """Listens for SIGINT while a run goes on; elsewhere than in the main thread it does nothing."""

    def __init__(self, notify: Callable[[], None]) -> None:
        """Args: notify: called at the first Ctrl-C."""
        self._notify = notify
        self._previous = None
        self.requested = False

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self._notify()
