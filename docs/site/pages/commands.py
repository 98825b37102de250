"""The reference of the command line: the help text of every command."""

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
    codes = " ".join((main.__doc__ or "").partition(_CODES)[2].split())
    commands = (f"## {name}\n\n{_block(main.help_text(name))}" for name in main.COMMANDS)
    parts = [_block(main.help_text()), *commands, f"## Exit codes\n\n{markdown.prose(codes)}\n"]
    return "\n\n".join(parts)


def _block(text: str) -> str:
    return f"```text\n{text}```"
