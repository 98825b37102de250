"""Docstrings in the house template, taken apart: text, Args, Returns, Raises, Reference."""

import ast
import inspect
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import qmix_jax

PACKAGE = pathlib.Path(qmix_jax.__file__).parent

_HEADS = ("Args", "Attributes", "Returns", "Raises", "Reference", "Deviation")
_HEAD = re.compile(rf"^({'|'.join(_HEADS)}):(?: (.*))?$")
_ITEM = re.compile(r"^([\w*., ]+?)(?: \(([^)]*)\))?: (.*)$", re.DOTALL)
_REFERENCE = re.compile(r"Reference: (.*?)(?= Deviation\b|$)")
_DEVIATION = re.compile(r"Deviation(?: from (\w+))?: (.*)")


class Docstring(NamedTuple):
    """Attributes:
    text: what comes before the first section.
    sections: heading -> its text, dedented.
    """

    text: str
    sections: dict[str, str]


class Deviation(NamedTuple):
    """What a piece of code does otherwise than its reference.

    Attributes:
      place: `qmix_jax.core.returns.n_step`, or a module.
      reference: the paper.
      text: the difference; `none` where there is none.
    """

    place: str
    reference: str
    text: str


def parse(docstring: str | None) -> Docstring:
    """Takes a docstring apart; a section's text may begin on the line of its heading."""
    text: list[str] = []
    sections: dict[str, list[str]] = {}
    current = text
    for line in inspect.cleandoc(docstring or "").split("\n"):
        match = _HEAD.match(line)
        if match:
            current = sections.setdefault(match[1], [])
            current.extend([match[2]] if match[2] else [])
        else:
            current.append(line)
    joined = {name: inspect.cleandoc("\n".join(["", *lines])) for name, lines in sections.items()}
    return Docstring("\n".join(text).strip(), joined)


def items(section: str) -> list[tuple[str, str]]:
    """`name: text` entries of a section; lines that go on are indented."""
    entries: list[list[str]] = []
    for line in section.split("\n"):
        if line.startswith(" ") and entries:
            entries[-1].append(line.strip())
        elif line.strip():
            entries.append([line.strip()])
    found = []
    for entry in entries:
        joined = " ".join(entry)
        match = _ITEM.match(joined)
        found.append((match[1], match[3]) if match else ("", joined))
    return found


def reference(docstring: str | None) -> tuple[str, str]:
    """(reference, deviation) of a docstring, each "" where it says none."""
    paper = deviation = ""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring or "")):
        flat = " ".join(paragraph.split())
        if found := _REFERENCE.search(flat):
            paper = found[1].strip()
        if found := _DEVIATION.search(flat):
            deviation = (f"from {found[1]}: " if found[1] else "") + found[2]
    return paper, deviation


def deviations() -> Iterator[Deviation]:
    """Of all modules, functions and classes of the package that name one, in the order of paths."""
    for path in sorted(PACKAGE.rglob("*.py")):
        dotted = ".".join(("qmix_jax", *path.relative_to(PACKAGE).with_suffix("").parts))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, node in _documented(tree):
            docstring = ast.get_docstring(node)
            if docstring and "Deviation" in docstring:
                place = dotted.removesuffix(".__init__") + name
                yield Deviation(place, *reference(docstring))


def _documented(
    tree: ast.Module,
) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef]]:
    yield "", tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield f".{node.name}", node
            inner = node.body if isinstance(node, ast.ClassDef) else []
            for child in inner:
                if isinstance(child, ast.FunctionDef):
                    yield f".{node.name}.{child.name}", child
