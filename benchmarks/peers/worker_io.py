"""Input and output of the workers: the work as JSON from stdin, the report as JSON in a file.

Runs under the peers' interpreters, so it imports only the standard library.
Reports written before a time limit ends the worker remain in the file.
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
    """The peer lacks a setting or a package; the message states the fix."""


class Channel:
    """Writes progress to the terminal and the report for the parent process."""

    def __init__(self, out, stream):
        self._out = pathlib.Path(out)
        self._stream = stream
        self._outcome = {}

    def progress(self, text):
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def update(self, **outcome):
        """Updates fields of the outcome and writes all of them."""
        self._outcome.update(outcome)
        self._write({"outcome": self._outcome})

    def fail(self, error):
        self._write({"error": error})

    def _write(self, report):
        partial = self._out.with_suffix(".part")
        partial.write_text(json.dumps(report, default=_plain))
        os.replace(partial, self._out)


def main(execute):
    """Calls `execute(task, channel)`; redirects its output to the log."""
    task = json.load(sys.stdin)
    channel = Channel(sys.argv[1], os.fdopen(os.dup(2), "w"))
    _silence(sys.argv[2])
    # Modules of the peers have common names (`base`, `run`), which this folder must not shadow.
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
    """Imports a package. Raises: RefusalError that says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise RefusalError(
            f"{sys.executable} cannot import {package} ({_first_line(error)}); "
            f"run: {sys.executable} -m pip install {install}"
        ) from error


def commit(checkout):
    """Returns the commit of a checkout, with "-dirty" if tracked files differ from it."""
    folder = pathlib.Path(checkout)
    if not (folder / ".git").exists():
        return "unknown commit"
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown commit"
    return f"commit {result.stdout.strip()}"


def finite(value):
    """Returns a float for JSON, None for NaN and infinities."""
    number = float(value)
    return number if math.isfinite(number) else None


def platform():
    """Returns conditions of a timing besides the settings."""
    return {
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "load_average_at_start": round(os.getloadavg()[0], 2),
    }


def environ_notes(environ):
    """Returns a note per additional environment variable."""
    return [f"environment variable {name}={value}" for name, value in sorted(environ.items())]


def _silence(log):
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


def _plain(value):
    """Converts numbers and arrays of other libraries to JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
