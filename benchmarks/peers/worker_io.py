"""What the workers share: their work as JSON from stdin, their report as JSON in a file.

Runs under the peers' interpreters: standard library only, and nothing of this project. What a
worker reports before its end is kept if a time limit ends it.
"""

import importlib
import json
import math
import os
import pathlib
import subprocess
import sys
import traceback


class RefusalError(Exception):
    """A setting or a package that the peer does not have; the text says how to fix it."""


class Channel:
    """Output of a worker: progress on the terminal, and a report for the parent process."""

    def __init__(self, out, stream):
        self._out = pathlib.Path(out)
        self._stream = stream
        self._outcome = {}

    def progress(self, text):
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def update(self, **outcome):
        """Adds fields of the outcome and puts all of them into the file."""
        self._outcome.update(outcome)
        self._write({"outcome": self._outcome})

    def fail(self, error):
        self._write({"error": error})

    def _write(self, report):
        whole = self._out.with_suffix(".part")
        whole.write_text(json.dumps(report, default=_plain))
        os.replace(whole, self._out)


def main(execute):
    """Calls `execute(task, channel)` with everything that it prints sent to the log."""
    task = json.load(sys.stdin)
    channel = Channel(sys.argv[1], os.fdopen(os.dup(2), "w"))
    _silence(sys.argv[2])
    # the peers' modules have common names (`base`, `run`): this folder must not come first
    folder = str(pathlib.Path(__file__).resolve().parent)
    sys.path[:] = [path for path in sys.path if path != folder]
    try:
        execute(task, channel)
    except RefusalError as error:
        channel.fail(str(error))
        sys.exit(2)
    except Exception as error:
        traceback.print_exc()
        channel.fail(f"{type(error).__name__}: {_first_line(error)}")
        sys.exit(1)


def need(package, install):
    """Imports a package, or refuses with what to install."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise RefusalError(
            f"{sys.executable} cannot import {package} ({_first_line(error)}); "
            f"run: {sys.executable} -m pip install {install}"
        ) from error


def commit(checkout):
    """The commit of a checkout, with "-dirty" where tracked files differ from it."""
    folder = pathlib.Path(checkout)
    if not (folder / ".git").exists():
        return "unknown commit"
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown commit"
    return f"commit {found.stdout.strip()}"


def finite(value):
    """A float for JSON: None for NaN and infinities."""
    number = float(value)
    return number if math.isfinite(number) else None


def platform():
    """What a timing depends on besides the settings."""
    return {
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
    }


def environ_notes(environ):
    """One note per variable set for this process only."""
    return [f"environment variable {name}={value}" for name, value in sorted(environ.items())]


def _silence(log):
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.close(printed)


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def _plain(value):
    """Numbers and arrays of other libraries as JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
