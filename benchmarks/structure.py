"""Structure of a checkout: size, imports, private helpers, names, and the calls between
`qmix_jax.train` and the compiled program.

Every checkout runs unchanged, in separate processes.
"""

import ast
import collections
import itertools
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import qmix_jax
from benchmarks import measure

_PACKAGE = "qmix_jax"
_WORKER = pathlib.Path(__file__).with_name("structure_worker.py")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
CONTRACT_NAMES = ("Config", "Coefficients")
"""Classes that every component's module defines."""
VAGUE_NAMES = ("found", "own", "one", "whole", "numbers")
_STARTS = {
    "import s": ("-c", f"import {_PACKAGE}"),
    "help s": ("-m", _PACKAGE, "--help"),
}


class Import(NamedTuple):
    """`source` imports `target` (dotted names); `late` imports are inside a function."""

    source: str
    target: str
    late: bool


class Helper(NamedTuple):
    """A private function of a module.

    Attributes:
      uses: reads of its name in the module, outside its body.
      statements: number of statements of its body, without the docstring.
    """

    name: str
    uses: int
    statements: int


def run(options: measure.Options) -> None:
    """Prints one row per `tree=DIR`, by default for this checkout.

    Raises: ConfigError for an unknown setting or a folder that is not a checkout.
    """
    trees = _trees(options.overrides)
    seconds = _starts(trees, options.repeats)
    rows, notes = [], [f"seconds: minimum of {options.repeats} starts, checkouts in alternation"]
    for tree in trees:
        row, more = _row(tree)
        rows.append({**row, **seconds[tree]})
        notes += more
    measure.report("structure", rows, options, notes)


def _trees(overrides: Sequence[str]) -> list[pathlib.Path]:
    pairs = [override.partition("=")[::2] for override in overrides]
    for key, path in pairs:
        if key != "tree":
            raise qmix_jax.ConfigError(f"structure: unknown key {key!r}; allowed: tree")
        if not (pathlib.Path(path) / _PACKAGE / "__init__.py").is_file():
            raise qmix_jax.ConfigError(
                f"structure: tree={path} has no {_PACKAGE}/__init__.py; give a checkout"
            )
    here = pathlib.Path(__file__).resolve().parents[1]
    return list(dict.fromkeys(pathlib.Path(path).resolve() for _, path in pairs)) or [here]


def _row(tree: pathlib.Path) -> tuple[measure.Row, list[str]]:
    package, tests = python_files(tree / _PACKAGE), python_files(tree / "tests")
    sources = [path.read_text(encoding="utf-8") for path in package]
    imports = imports_of(tree)
    cycles = {late: find_cycles(imports, late) for late in (False, True)}
    upward = upward_imports(imports, layers(tree))
    private = [helper for source in sources for helper in helpers(source)]
    once = [helper for helper in private if helper.uses == 1]
    calls = hops(tree)
    row = {
        "case": tree.name,
        "files": len(package),
        "lines": sum(map(_lines, package)),
        "test files": len(tests),
        "test lines": sum(map(_lines, tests)),
        "import cycles": len(cycles[False]),
        "with late imports": len(cycles[True]),
        "upward imports": len(upward),
        "private functions": len(private),
        "used once": len(once),
        "used once, one statement": sum(helper.statements == 1 for helper in once),
        "repeated class names": len(repeated_classes(sources)),
        "vague bindings": sum(vague_bindings(sources).values()),
        "hops": len(calls),
        "hop files": len({call.partition(":")[0] for call in calls}),
    }
    notes = [f"{tree.name}: import cycle: {' <-> '.join(cycle)}" for cycle in cycles[True]]
    notes += [
        f"{tree.name}: import of a higher layer: {imported.source} imports {imported.target}"
        for imported in upward
    ]
    notes.append(f"{tree.name}: hops: {' -> '.join([*calls, 'compiled train'])}")
    notes.append(f"{tree.name}: {', '.join(folder_sizes(tree / _PACKAGE))}")
    return row, notes


def python_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns all modules below a folder."""
    return sorted(folder.rglob("*.py"))


def _lines(path: pathlib.Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def folder_sizes(package: pathlib.Path) -> list[str]:
    """Returns `folder 12 files 2,469 lines` for the package's own modules and each folder in it."""
    sizes: dict[str, list[int]] = {}
    for path in python_files(package):
        folder, *below = path.relative_to(package).parts
        sizes.setdefault(folder if below else package.name, []).append(_lines(path))
    return [
        f"{name} {len(lines)} files {sum(lines):,} lines" for name, lines in sorted(sizes.items())
    ]


def imports_of(tree: pathlib.Path) -> list[Import]:
    """Returns the imports between modules of the package, without those under `TYPE_CHECKING`.

    `from package import module` counts as an import of the module; a package is its `__init__`.
    """
    modules = {_dotted(path.relative_to(tree)): path for path in python_files(tree / _PACKAGE)}
    imports = {
        Import(source, name if name in modules else name.rpartition(".")[0], late)
        for source, path in modules.items()
        for name, late in _imported(ast.parse(path.read_text(encoding="utf-8")), late=False)
    }
    return sorted(x for x in imports if x.target in modules and x.target != x.source)


def _dotted(path: pathlib.Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(node: ast.AST, late: bool) -> Iterator[tuple[str, bool]]:
    """Yields (dotted name, whether inside a function) of every import below a node."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, late) for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        yield from ((f"{node.module}.{alias.name}", late) for alias in node.names)
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    late = late or isinstance(node, (*_FUNCTIONS, ast.Lambda))
    for child in ast.iter_child_nodes(node):  # an import has no imports below it
        yield from _imported(child, late)


def find_cycles(imports: Iterable[Import], late: bool) -> list[list[str]]:
    """Returns sets of modules that import each other, directly or indirectly.

    Args:
      late: also count imports inside functions.
    """
    targets = collections.defaultdict(set)
    for imported in imports:
        if late or not imported.late:
            targets[imported.source].add(imported.target)
    reach = {source: _reachable(source, targets) for source in list(targets)}
    cycles = {
        tuple(sorted(other for other in reach[source] if source in reach.get(other, ())))
        for source in reach
    }
    return [list(cycle) for cycle in sorted(cycles) if cycle]


def _reachable(source: str, targets: Mapping[str, Collection[str]]) -> set[str]:
    """Returns the modules that `source` imports, directly or indirectly."""
    visited: set[str] = set()
    queue = list(targets.get(source, ()))
    while queue:
        module = queue.pop()
        if module not in visited:
            visited.add(module)
            queue += targets.get(module, ())
    return visited


def layers(tree: pathlib.Path) -> dict[str, int]:
    """Returns top-level module or folder -> layer, from the checkout's `tests/test_layers.py`.

    Raises: ConfigError if that file has no table `LAYERS`.
    """
    path = tree / "tests" / "test_layers.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else ():
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS":
            table = ast.literal_eval(node.value)
            return {unit: layer for layer, units in enumerate(table) for unit in units}
    raise qmix_jax.ConfigError(f"structure: {str(path)!r} has no table LAYERS; give a checkout")


def upward_imports(imports: Iterable[Import], level: Mapping[str, int]) -> list[Import]:
    """Returns imports of a higher layer; modules missing in the table are above all others."""

    def layer(module: str) -> float:
        return level.get(module.split(".")[1], math.inf)

    inside = [x for x in imports if "." in x.source and "." in x.target]
    return [x for x in inside if layer(x.target) > layer(x.source)]


def helpers(source: str) -> list[Helper]:
    """Returns the private functions at module level."""
    module = ast.parse(source)
    reads = collections.Counter(_names(module))
    private = []
    for node in module.body:
        if isinstance(node, _FUNCTIONS) and node.name.startswith("_") and node.name[1:2] != "_":
            uses = reads[node.name] - collections.Counter(_names(node))[node.name]
            statements = len(node.body) - (ast.get_docstring(node) is not None)
            private.append(Helper(node.name, uses, statements))
    return private


def _names(node: ast.AST) -> Iterator[str]:
    """Yields the names that are read."""
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
            yield child.id


def repeated_classes(sources: Iterable[str]) -> dict[str, int]:
    """Returns class name -> number of definitions, for names with several; not `CONTRACT_NAMES`."""
    counts = collections.Counter(
        node.name
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef) and node.name not in CONTRACT_NAMES
    )
    return {name: count for name, count in counts.items() if count > 1}


def vague_bindings(sources: Iterable[str]) -> dict[str, int]:
    """Returns the number of bindings of each of `VAGUE_NAMES`."""
    counts = collections.Counter(
        name for source in sources for name in bound_names(ast.parse(source))
    )
    return {name: counts[name] for name in VAGUE_NAMES}


def bound_names(module: ast.AST) -> Iterator[str]:
    """Yields every name bound: variables, parameters, functions, classes and imports."""
    for node in ast.walk(module):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.alias(name=name, asname=alias):
                yield alias or name.rpartition(".")[2]


def hops(tree: pathlib.Path) -> list[str]:
    """Returns `file:function` of every call from `qmix_jax.train` to the compiled program."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "hops.json")
        _call(
            tree, (str(_WORKER), str(tree / _PACKAGE), str(pathlib.Path(folder, "run")), str(out))
        )
        calls = json.loads(out.read_text(encoding="utf-8"))
    if not calls or not calls[0].endswith(":train"):
        raise ValueError(
            f"structure: {tree.name}: no call from qmix_jax.train to a compiled program"
        )
    return calls


def _starts(trees: Sequence[pathlib.Path], repeats: int) -> dict[pathlib.Path, dict[str, float]]:
    """Returns the minimum seconds of each of `_STARTS` in each checkout, in alternation."""
    seconds = {tree: {name: [] for name in _STARTS} for tree in trees}
    for tree, name in itertools.product(trees, _STARTS):
        _call(tree, _STARTS[name])  # warms the file cache
    for _, tree, name in itertools.product(range(repeats), trees, _STARTS):
        started = time.perf_counter()
        _call(tree, _STARTS[name])
        seconds[tree][name].append(time.perf_counter() - started)
    return {
        tree: {name: min(values) for name, values in starts.items()}
        for tree, starts in seconds.items()
    }


def _call(tree: pathlib.Path, arguments: Sequence[str]) -> None:
    """Runs Python in a checkout. Raises: ValueError with the end of its output if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    process = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if process.returncode:
        output = (process.stderr or process.stdout).strip()
        raise ValueError(f"structure: {tree.name}: {output[-300:]}")
