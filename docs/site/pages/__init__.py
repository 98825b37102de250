"""What pages of the documentation take from the package: no fact is written twice.

A page says where by a mark on a line of its own:

    <!-- generated: NAME -->    one of `GENERATED`
    <!-- facts: ALGORITHM -->   deviations, options and docstrings of an algorithm
    <!-- file: PATH -->         a Python file of the repository

They need the package and nothing else; MkDocs calls `fill` through `hooks.py`, tests directly.
"""

import pathlib
import re
from collections.abc import Callable

from pages import algorithms, commands, configuration, interface

ROOT = pathlib.Path(__file__).resolve().parents[3]
"""The repository."""

GENERATED: dict[str, Callable[[], str]] = {
    "algorithms": algorithms.table,
    "commands": commands.reference,
    "configuration": configuration.reference,
    "contracts": interface.contracts,
    "deviations": algorithms.deviations,
    "numerics": interface.numerics,
    "public": interface.public,
}
"""Name in a mark -> what makes its Markdown."""

_MARK = re.compile(r"^<!-- (generated|facts|file): (\S+) -->$", re.MULTILINE)


def fill(page: str) -> str:
    """A page with its marks replaced.

    Raises: LookupError for an unknown name; OSError for a file that is not there.
    """
    return _MARK.sub(lambda match: _KINDS[match[1]](match[2]), page)


def marks(page: str) -> list[tuple[str, str]]:
    """(kind, name) of each mark of a page."""
    return _MARK.findall(page)


def _listing(path: str) -> str:
    return f"```python\n{(ROOT / path).read_text(encoding='utf-8')}```"


_KINDS: dict[str, Callable[[str], str]] = {
    "generated": lambda name: GENERATED[name](),
    "facts": algorithms.facts,
    "file": _listing,
}

__all__ = ["GENERATED", "ROOT", "algorithms", "fill", "interface", "marks"]
