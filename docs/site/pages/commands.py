"""The reference of the command line: what `--help` prints, and the exit codes."""

import contextlib
import io
import os
from unittest import mock

from pages import markdown
from qmix_jax.cli import main

COMMANDS = (
    "train",
    "plan",
    "baseline",
    "report",
    "lab",
    "weights",
    "evaluate",
    "render",
    "export",
    "rerun",
    "check-env",
    "doctor",
)
"""In the order of the page."""

_CODES = "Exit codes: "


def reference() -> str:
    """Help texts and exit codes as Markdown."""
    overview = help_text()
    parts = [f"```text\n{overview}```"]
    for command in COMMANDS:
        text = help_text(command)
        if text != overview:
            parts.append(f"## qmix-jax {command}\n\n```text\n{text}```")
    codes = " ".join((main.__doc__ or "").partition(_CODES)[2].split())
    return "\n\n".join([*parts, f"## Exit codes\n\n{markdown.prose(codes)}\n"])


def help_text(*command: str) -> str:
    """What `qmix-jax [COMMAND] --help` prints on a terminal of 80 columns."""
    output = io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS="80"),
        contextlib.redirect_stdout(output),
        contextlib.suppress(SystemExit),
    ):
        main.main([*command, "--help"])
    return output.getvalue().strip() + "\n"
