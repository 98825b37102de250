"""Signals: the first one stops the run cleanly, a second Ctrl-C ends the process at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; what schedulers and containers send before SIGKILL; SLURM's early warning."""

_last = signal.SIGINT


def exit_code() -> int:
    """Returns the exit code of a run that a signal stopped: 128 plus the signal, as in shells."""
    return 128 + _last


class SignalListener(contextlib.AbstractContextManager["SignalListener"]):
    """Listens for `SIGNALS` during a run; leaves existing handlers of SIGTERM and SIGUSR1 alone.

    Python runs signal handlers in the main thread, which may be inside a compiled call for seconds,
    so a thread reads the bytes that the interpreter writes for each signal. Outside the main thread
    signals cannot be caught, and the listener does nothing. In a notebook the second Ctrl-C raises
    KeyboardInterrupt, so that the process and its variables survive.
    """

    def __init__(self, notify: Callable[[], None], abandon: Callable[[], None]) -> None:
        """Args:
        notify: called at the first signal.
        abandon: called at a second Ctrl-C, before the process ends.
        """
        self._notify = notify
        self._abandon = abandon
        self._notebook = "ipykernel" in sys.modules
        self._n_handled = 0
        self._active = threading.current_thread() is threading.main_thread()
        self.requested = False

    def __enter__(self) -> "SignalListener":
        if self._active:
            self._reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._before = {
                number: signal.signal(number, self._handle)
                for number in SIGNALS
                if number == signal.SIGINT or signal.getsignal(number) == signal.SIG_DFL
            }
            self._wakeup_fd = signal.set_wakeup_fd(self._writer.fileno())
            threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            signal.set_wakeup_fd(self._wakeup_fd)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._writer.close()  # ends the listener

    def _handle(self, number: int, frame: object) -> None:
        del frame
        self._n_handled += number == signal.SIGINT
        if self._notebook and self._n_handled > 1:
            raise KeyboardInterrupt

    def _listen(self) -> None:
        with self._reader:
            for number in iter(lambda: self._reader.recv(1), b""):
                self._receive(number[0])

    def _receive(self, number: int) -> None:
        global _last
        if number not in self._before:
            return
        if self.requested and (self._notebook or number != signal.SIGINT):
            return
        _last = signal.Signals(number)
        if self.requested:
            self._abandon()
            os._exit(exit_code())
        self.requested = True
        self._notify()
