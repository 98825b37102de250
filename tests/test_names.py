"""One name has one meaning: names of classes, and words that say nothing."""

import ast
import collections
import pathlib

import qmix_jax

PACKAGE = pathlib.Path(qmix_jax.__file__).parent
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
CONTRACT = {"Config", "Coefficients"}
"""Names that every component's module defines."""
VAGUE = ("found", "own", "one", "whole", "numbers")


def test_no_two_classes_have_the_same_name():
    places = collections.defaultdict(list)
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name not in CONTRACT:
                places[node.name].append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert {name: lines for name, lines in places.items() if len(lines) > 1} == {}


def test_vague_names_are_rare():
    counts = collections.Counter(name for tree in TREES.values() for name in bound_names(tree))
    assert {name: counts[name] for name in VAGUE if counts[name] > 20} == {}


def bound_names(tree):
    """Every name that a module binds: variables, parameters, functions, classes, imports."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name, asname=alias):
                yield alias or name.rpartition(".")[2]
