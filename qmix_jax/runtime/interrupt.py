"""Ctrl-C: the first one asks the run to end cleanly, the second one ends the process at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

EXIT_CODE = 128 + signal.SIGINT
"""Exit code of a process that Ctrl-C ended, as shells have it."""


class Interrupt(contextlib.AbstractContextManager["Interrupt"]):
    """Listens for SIGINT while a run goes on.

    Python runs signal handlers in the main thread only, which may be inside a compiled call for
    seconds. So a thread of its own reads the bytes that the interpreter writes for each signal.
    Elsewhere than in the main thread signals cannot be caught, and this does nothing. In a notebook
    the second Ctrl-C raises KeyboardInterrupt instead of ending the process with all its variables.
    """

    def __init__(self, notify: Callable[[], None], abandon: Callable[[], None]) -> None:
        """Args: notify: called at the first Ctrl-C; abandon: at the second, before the end."""
        self._notify = notify
        self._abandon = abandon
        self._notebook = "ipykernel" in sys.modules
        self._n_handled = 0
        self._active = threading.current_thread() is threading.main_thread()
        self.requested = False

    def __enter__(self) -> "Interrupt":
        if self._active:
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._handler = signal.signal(signal.SIGINT, self._handle)
            self._wakeup_fd = signal.set_wakeup_fd(self._writer.fileno())
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            signal.set_wakeup_fd(self._wakeup_fd)
            signal.signal(signal.SIGINT, self._handler)
            self._writer.close()  # ends the listener

    def _handle(self, *_: object) -> None:
        self._n_handled += 1
        if self._notebook and self._n_handled > 1:
            raise KeyboardInterrupt

    def _listen(self) -> None:
        with self._reader:
            for number in iter(lambda: self._reader.recv(1), b""):
                self._heard(number[0])

    def _heard(self, number: int) -> None:
        if number != signal.SIGINT:
            return
        if self.requested and self._notebook:
            return
        if self.requested:
            self._abandon()
            os._exit(EXIT_CODE)
        self.requested = True
        self._notify()
