"""Dependency direction, forbidden imports and size limits, read from the source."""

import ast
import functools
import itertools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "qmix_jax"

LAYERS = (
    ("types", "reprs", "synonyms", "config", "groups", "plan", "components", "user_code"),
    ("core",),
    ("nn",),
    ("agents", "critics", "mixers", "envs", "replay", "learner"),
    ("algorithms", "rollout", "collectors"),
    ("train_step", "evaluate"),
    ("program", "memory", "entry_points", "host_arrays", "population"),
    ("machine", "console", "loggers"),
    ("runs",),
    ("training",),
    ("reports", "render", "deploy", "conformance"),
    ("api",),
    ("lab", "doctor"),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
HOST = frozenset(itertools.chain(*LAYERS[LAYERS.index(("machine", "console", "loggers")) :]))

ALLOWED = {
    "hydra": {"cli"},
    "omegaconf": {"cli"},
    "pydantic": {"config"},
    "flax": {"nn", "agents", "critics", "mixers"},
    "optax": {"learner"},
    "jaxmarl": {"envs"},
    "os": HOST,
    "time": HOST,
    "json": HOST,
    "logging": HOST,
    "rich": {"console", "training", "runs", "reports", "lab", "doctor", "conformance"},
    "matplotlib": {"console", "reports", "lab", "render"},
    "PIL": {"render"},
    "jinja2": {"reports"},
    "pettingzoo": {"envs"},
    "gymnasium": {"envs"},
}
"""Module -> the units that may import it. A component's `Config` may use pydantic's fields."""

COMPONENT_KINDS = {"envs", "agents", "mixers", "algorithms", "loggers"}

MAX_BODY_LINES = 50
MAX_DEPTH = 2
MAX_FILE_LINES = 500
MAX_POSITIONAL = 3

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
PURE = [path for path in MODULES if path.relative_to(PACKAGE).with_suffix("").parts[0] not in HOST]
FOLDERS = ("qmix_jax", "benchmarks", "examples")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
each_pure_module = pytest.mark.parametrize(
    "path", PURE, ids=lambda path: str(path.relative_to(ROOT))
)
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))


def test_every_folder_is_a_package():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_every_module_has_a_layer():
    assert MODULES
    assert {_unit(path) for path in MODULES} == set(LEVEL)


@each_module
def test_imports_point_down(path):
    unit = _unit(path)
    for target in _internal_imports(path):
        other = target.split(".")[1]
        sideways = LEVEL[other] == LEVEL[unit] and other != unit
        fine = (
            other == unit
            or LEVEL[other] < LEVEL[unit]
            or (sideways and (target.endswith(".base") or _flat(unit, other)))
        )
        assert fine, f"{path.relative_to(ROOT)} (layer {LEVEL[unit]}) imports {target}"


@each_module
def test_libraries_stay_in_their_place(path):
    unit = _unit(path)
    for library in _external_imports(path):
        allowed = set(ALLOWED.get(library, {unit}))
        if library == "pydantic":
            allowed |= COMPONENT_KINDS
        assert unit in allowed, f"{path.relative_to(ROOT)} imports {library}"


@each_module
def test_plan_and_components_need_the_standard_library_only(path):
    if _unit(path) in ("plan", "components"):
        assert not {"jax", "numpy", "chex", "pydantic"} & set(_external_imports(path))


@each_pure_module
def test_only_the_host_side_prints(path):
    calls = [node.func for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


@each_source
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES


@each_source
def test_functions_are_short_and_flat(path):
    for function in _functions(path):
        where = f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
        assert _body_lines(function) <= MAX_BODY_LINES, where
        assert _depth(function.body) <= MAX_DEPTH, where


@each_module
def test_results_are_small_tuples(path):
    for line, size in _returned_tuples(path):
        assert size <= MAX_POSITIONAL, f"{path.relative_to(ROOT)}:{line}"


def test_the_measures_measure():
    source = '''
def outer(x):
    """Two
    lines."""
    for i in x:
        if i:
            while i:
                pass
        elif x:
            pass
    def inner():
        """One."""
        return 1
'''
    outer = ast.parse(source).body[0]
    assert isinstance(outer, ast.FunctionDef)
    assert _body_lines(outer) == 8
    assert _depth(outer.body) == 3


@functools.cache
def _tree(path):
    return ast.parse(path.read_text())


def _unit(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _flat(unit, other):
    """Both are single modules, not packages: they may know each other inside a layer."""
    return not (PACKAGE / unit).is_dir() and not (PACKAGE / other).is_dir()


def _imports(path):
    """Dotted names of everything imported, wherever in the file."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _internal_imports(path):
    """`qmix_jax.x.y` of modules only: imported names are cut off."""
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "qmix_jax" and len(parts) > 1 and parts[1] in LEVEL:
            yield name if _is_module(parts) else ".".join(parts[:-1])


def _is_module(parts):
    path = ROOT.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").is_file()


def _external_imports(path):
    return {name.split(".")[0] for name in _imports(path)} - {"qmix_jax"}


def _functions(path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(_tree(path)) if isinstance(node, kinds)]


def _docstring_lines(node):
    if ast.get_docstring(node) is None:
        return set()
    first = node.body[0]
    return set(range(first.lineno, first.end_lineno + 1))


def _body_lines(function):
    """Lines of the body, docstrings and blank edges not counted."""
    lines = set(range(function.body[0].lineno, function.end_lineno + 1))
    nested = [node for node in ast.walk(function) if isinstance(node, ast.FunctionDef)]
    return len(lines.difference(*map(_docstring_lines, nested)))


_BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)


def _depth(statements):
    """Deepest nesting of control flow; an `elif` is as deep as its `if`, functions start at 0."""
    return max((_depth_of(statement) for statement in statements), default=0)


def _depth_of(statement):
    if not isinstance(statement, _BLOCKS):
        return 0
    if isinstance(statement, ast.Match):
        return 1 + max(_depth(case.body) for case in statement.cases)
    if isinstance(statement, ast.If):
        chain = statement.orelse
        is_elif = len(chain) == 1 and isinstance(chain[0], ast.If)
        return max(1 + _depth(statement.body), _depth(chain) if is_elif else 1 + _depth(chain))
    handlers = [handler.body for handler in getattr(statement, "handlers", [])]
    blocks = [statement.body, getattr(statement, "orelse", []), *handlers]
    return 1 + _depth(itertools.chain(*blocks, getattr(statement, "finalbody", [])))


def _returned_tuples(path):
    """(line, size) of every tuple written after `return`, gradient rules excepted."""
    rules = _gradient_rules(path)  # JAX settles how many gradients they return
    functions = [function for function in _functions(path) if function.name not in rules]
    returns = [
        node.value
        for function in functions
        for node in ast.walk(function)
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple)
    ]
    return [(node.lineno, len(node.elts)) for node in returns]


def _gradient_rules(path):
    """Names of the functions given to `defvjp`."""
    calls = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)]
    rules = [call for call in calls if getattr(call.func, "attr", None) == "defvjp"]
    return {arg.id for call in rules for arg in call.args if isinstance(arg, ast.Name)}
