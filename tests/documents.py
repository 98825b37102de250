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


def without_code(text: str) -> str:
    """A page without its code blocks and inline code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
