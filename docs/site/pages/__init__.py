"""Parts of the documentation that are written from the package, so that no fact is written twice.

A page in `docs/` names them in comments, and holds their text between the two:

    <!-- generated: NAME -->
    ...
    <!-- end of generated -->

NAME is one of `GENERATED`, `algorithm NAME` for the facts of one algorithm, or `file PATH` for a
Python file of the repository. `docs/site/generate.py` writes the text and checks it.
"""

import pathlib
import re
from collections.abc import Callable

from pages import algorithms, commands, configuration, interface

ROOT = pathlib.Path(__file__).resolve().parents[3]
"""The repository."""
DOCS = ROOT / "docs"

GENERATED: dict[str, Callable[[], str]] = {
    "algorithms": algorithms.table,
    "commands": commands.reference,
    "configuration": configuration.reference,
    "contracts": interface.contracts,
    "deviations": algorithms.deviations,
    "numerics": interface.numerics,
    "public": interface.public,
}
"""Name in a comment -> function that returns the Markdown."""

_BLOCK = re.compile(
    r"^<!-- generated: (?P<name>[^\n]+?) -->\n(?P<text>.*?)^<!-- end of generated -->$",
    re.MULTILINE | re.DOTALL,
)


def paths() -> list[pathlib.Path]:
    """Every page of the documentation."""
    return sorted(path for path in DOCS.rglob("*.md") if DOCS / "site" not in path.parents)


def names(page: str) -> list[str]:
    """Names of the generated blocks of a page."""
    return [match["name"] for match in _BLOCK.finditer(page)]


def fill(page: str) -> str:
    """The page with every generated block written again.

    Raises: LookupError for an unknown name; OSError for a file that does not exist.
    """
    return _BLOCK.sub(
        lambda match: (
            f"<!-- generated: {match['name']} -->\n\n"
            f"{_generate(match['name']).strip()}\n\n<!-- end of generated -->"
        ),
        page,
    )


def _generate(name: str) -> str:
    kind, _, argument = name.partition(" ")
    if kind == "algorithm":
        return algorithms.facts(argument)
    if kind == "file":
        return f"```python\n{(ROOT / argument).read_text(encoding='utf-8')}```"
    return GENERATED[name]()


__all__ = ["DOCS", "GENERATED", "ROOT", "algorithms", "fill", "interface", "names", "paths"]
