"""One name has one meaning: names of classes, and words that say nothing."""

import ast
import collections
import pathlib

import qmix_jax
from benchmarks import structure

PACKAGE = pathlib.Path(qmix_jax.__file__).parent
SOURCES = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}


def test_no_two_classes_have_the_same_name():
    repeated = structure.repeated_classes(SOURCES.values())
    places = collections.defaultdict(list)
    for path, source in SOURCES.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef) and node.name in repeated:
                places[node.name].append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert dict(places) == {}


def test_vague_names_are_rare():
    counts = structure.vague_bindings(SOURCES.values())
    assert {name: count for name, count in counts.items() if count > 20} == {}
