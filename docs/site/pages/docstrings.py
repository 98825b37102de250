"""Parses docstrings in the house template: text, Args, Returns, Raises, Reference, Deviation."""

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
    text: what precedes the first section.
    sections: heading -> its text, dedented.
    """

    text: str
    sections: dict[str, str]


class Deviation(NamedTuple):
    """How a module, class or function differs from its reference.

    Attributes:
      place: `qmix_jax.core.returns.n_step`, or a module.
      reference: the paper.
      text: the difference, or `none`.
    """

    place: str
    reference: str
    text: str


def parse(docstring: str | None) -> Docstring:
    """Splits a docstring into sections; a section may begin on the line of its heading."""
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
    """(name, text) of each `name: text` entry; continuation lines are indented."""
    entries: list[list[str]] = []
    for line in section.split("\n"):
        if line.startswith(" ") and entries:
            entries[-1].append(line.strip())
        elif line.strip():
            entries.append([line.strip()])
    texts = [" ".join(entry) for entry in entries]
    matches = [(_ITEM.match(text), text) for text in texts]
    return [(match[1], match[3]) if match else ("", text) for match, text in matches]


def reference(docstring: str | None) -> tuple[str, str]:
    """(reference, deviation) of a docstring; "" if it states none."""
    paper = deviation = ""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring or "")):
        flat = " ".join(paragraph.split())
        if match := _REFERENCE.search(flat):
            paper = match[1].strip()
        if match := _DEVIATION.search(flat):
            deviation = (f"from {match[1]}: " if match[1] else "") + match[2]
    return paper, deviation


def deviations() -> Iterator[Deviation]:
    """All deviations stated by docstrings of the package, ordered by path."""
    for path in sorted(PACKAGE.rglob("*.py")):
        dotted = ".".join(("qmix_jax", *path.relative_to(PACKAGE).with_suffix("").parts))
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, node in _definitions(tree):
            docstring = ast.get_docstring(node)
            if docstring and "Deviation" in docstring:
                place = dotted.removesuffix(".__init__") + name
                yield Deviation(place, *reference(docstring))


def _definitions(
    tree: ast.Module,
) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef]]:
    """The module, its functions and classes, and their methods."""
    yield "", tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield f".{node.name}", node
            children = node.body if isinstance(node, ast.ClassDef) else []
            for child in children:
                if isinstance(child, ast.FunctionDef):
                    yield f".{node.name}.{child.name}", child
