"""The README and the pages of the documentation, and their code blocks."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if DOCS / "site" not in path.parents)
TEXTS = [ROOT / "README.md", *PAGES]

each_text = pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))


def blocks(path: pathlib.Path, *languages: str) -> list[str]:
    """The code blocks of a page in any of the languages."""
    fence = re.compile(
        rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE
    )
    return fence.findall(path.read_text(encoding="utf-8"))


def inline_commands(path: pathlib.Path) -> str:
    """A shell block of the `qmix-jax` commands in the text of a page.

    Bare names of commands, and commands with a placeholder for overrides, are left out.
    """
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    commands = re.findall(r"`(qmix-jax\s(?:[a-z-]+\s|--)[^`]*)`", text)
    complete = (
        " ".join(command.split())
        for command in commands
        if not re.search(r"\.\.\.|key=value", command)
    )
    return "".join(f"{command}\n" for command in dict.fromkeys(complete))


def without_code(text: str) -> str:
    """A page without its code blocks and inline code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
