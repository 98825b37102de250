"""The reference of the command line: its own help text."""

from pages import markdown
from qmix_jax.cli import main

_CODES = "Exit codes: "


def reference() -> str:
    """Help text and exit codes as Markdown."""
    codes = " ".join((main.__doc__ or "").partition(_CODES)[2].split())
    return f"```text\n{help_text()}```\n\n## Exit codes\n\n{markdown.prose(codes)}\n"


def help_text() -> str:
    """What `--help` prints."""
    return main._help()
