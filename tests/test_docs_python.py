"""The Python blocks of the documentation compile, use public names that exist with arguments that
they take, and run where that is quick.
"""

import ast
import importlib
import inspect
import re
import sys

import numpy as np
import pytest
import toys
from documents import DOCS, blocks, each_text
from toys import returns

import qmix_jax
from qmix_jax.loggers import base

PRIVATE = re.compile(r"qmix_jax\.(cli|[\w.]*\b_(?!_))")


@each_text
def test_python_is_valid(path):
    for code in blocks(path, "python"):
        compile(code, str(path), "exec")


@each_text
def test_names_and_arguments_exist(path):
    for code in blocks(path, "python"):
        tree = ast.parse(code)
        names = _imports(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                _resolve(node, names)
            elif isinstance(node, ast.Call):
                _check_arguments(node, names)


@each_text
def test_only_public_names_are_used(path):
    text = path.read_text(encoding="utf-8")
    code = "\n".join([*blocks(path, "python"), *re.findall(r"`([^`\n]+)`", text)])
    dotted = re.sub(r"from ([\w.]+) import ", r"\1.", code)
    assert not PRIVATE.search(dotted), PRIVATE.search(dotted)


@each_text
def test_names_in_the_text_exist(path):
    """Inline code such as `qmix_jax.train(...)` or `qmix_jax.core.returns`."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for dotted in re.findall(r"`qmix_jax\.([\w.]*\w)[^`\n]*`", text):
        _value(f"qmix_jax.{dotted}")


def _imports(tree):
    """Name in the block -> its value, for imports from the package; `qmix_jax` is always there."""
    names = {"qmix_jax": qmix_jax}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("qmix_jax"):
            for alias in node.names:
                names[alias.asname or alias.name] = _value(f"{node.module}.{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("qmix_jax.") and alias.asname:
                    names[alias.asname] = _value(alias.name)
    return names


def _value(dotted):
    """A module of the package or an attribute. Raises: ImportError, AttributeError."""
    parent, _, name = dotted.rpartition(".")
    if not parent:
        return importlib.import_module(dotted)
    value = _value(parent)
    if not hasattr(value, name) and inspect.ismodule(value):
        return importlib.import_module(dotted)
    return getattr(value, name)


def _resolve(node, names):
    """The value of `a.b.c`, None where `a` is not an import from the package."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    parent = _resolve(node.value, names)
    if parent is None:
        return None
    if inspect.ismodule(parent) and not hasattr(parent, node.attr):
        return importlib.import_module(f"{parent.__name__}.{node.attr}")
    return (
        getattr(parent, node.attr, None) if inspect.isclass(parent) else getattr(parent, node.attr)
    )


def _check_arguments(call, names):
    function = _resolve(call.func, names)
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    if not inspect.isfunction(function) or starred or not all(k.arg for k in call.keywords):
        return
    try:
        inspect.signature(function).bind(*call.args, **{k.arg: k for k in call.keywords})
    except TypeError as error:
        pytest.fail(f"{ast.unparse(call)}: {error}")


@pytest.mark.parametrize(
    ("page", "module"), [("custom_mixer", "weighted"), ("custom_agent", "leaky")]
)
def test_the_check_of_a_component_runs(page, module, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_lab", toys)
    monkeypatch.setitem(sys.modules, f"my_lab.{module}", importlib.import_module(f"toys.{module}"))
    (code,) = [code for code in blocks(DOCS / f"{page}.md", "python") if "assert " in code]
    exec(compile(code, f"{page}.md", "exec"), {})


def test_the_check_of_the_recurrent_state_runs():
    (code,) = [code for code in blocks(DOCS / "recurrent_state.md", "python") if "assert " in code]
    exec(compile(code, "recurrent_state.md", "exec"), {})


def test_the_logger_of_the_page_writes_its_metric(tmp_path):
    run = base.RunInfo(tmp_path, {}, (3,), ("eval/return",), None)
    logger = returns.make(returns.Config(), run)
    logger.write([{"kind": "eval", "env_steps": 64, "seed": 3, "eval/return": 7.5}])
    logger.write([{"kind": "train", "env_steps": 64, "seed": 3, "train/loss": 0.1}])
    logger.close(False)
    assert (tmp_path / "returns" / "returns.tsv").read_text() == "64\t3\t7.5\n"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["quickstart", "custom_algorithm"])
def test_training_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "my_lab", toys)
    hysteretic = importlib.import_module("toys.hysteretic")
    monkeypatch.setitem(sys.modules, "my_lab.hysteretic", hysteretic)
    (code,) = [code for code in blocks(DOCS / f"{page}.md", "python") if "20_000" in code]
    names = {}
    exec(compile(code.replace("20_000", "400"), f"{page}.md", "exec"), names)
    assert "result" in names or np.isfinite(names["tables"].utilities[0]).all()


@pytest.mark.slow
def test_the_loops_of_the_page_on_steps_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loop, callback = (
        code.replace("20_000", "4_000").replace("10_000", "2_000")
        for code in blocks(DOCS / "stepwise.md", "python")
    )
    names = {}
    exec(compile(loop, "stepwise.md", "exec"), names)
    session, result = names["session"], names["result"]
    assert len(loop.splitlines()) < 30
    assert result.interrupted == (session.update < session.plan.n_updates)
    assert result.metrics["update"].max() == session.update > 0
    exec(compile(callback, "stepwise.md", "exec"), {})
    assert qmix_jax.load_run("runs/watched").metrics["env_steps"].max() > 0
