"""Errors of user-defined components are one line, and `train` leaves no files."""

import importlib
import pathlib
import re

import pytest
from toys.command_line import TINY, run

from examples import rescue
from qmix_jax import program

WORKING = pathlib.Path(rescue.__file__).read_text(encoding="utf-8")

BROKEN = {
    "raises": (
        "jnp.where(saved, 10.0, -0.1).astype(jnp.float32)",
        "10.0 if saved else -0.1",
        r"env: 'lab\.raises' failed at raises\.py:\d+ \(TracerBoolConversionError: .*\); "
        r"run `qmix-jax check-env lab\.raises` for details",
    ),
    "carries": (
        'state["step"] + 1}',
        'state["step"] + 1.0}',
        r"env: 'lab\.carries' failed \(TypeError: scan body .*\); "
        r"run `qmix-jax check-env lab\.carries` for details",
    ),
    "misstates": (
        "obs_shape=(4,),",
        "obs_shape=(5,),",
        r"env: 'lab\.misstates' failed \(ScopeParamShapeError: .*\); "
        r"run `qmix-jax check-env lab\.misstates` for details",
    ),
    "makes": (
        "    moves = ",
        "    {}['x']\n    moves = ",
        r"env: 'lab\.makes' failed at makes\.py:\d+ \(KeyError: 'x'\); .*",
    ),
    "imports": (
        "import jax\n",
        "import jax\nnonsense\n",
        r"config: env\.name='lab\.imports': importing it raised NameError: .*; fix it",
    ),
}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """An importable folder of user code."""
    (tmp_path / "lab").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    return tmp_path / "lab"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_environment_is_a_one_line_error(lab, capsys, name):
    right, wrong, message = BROKEN[name]
    assert WORKING.count(right) == 1
    (lab / f"{name}.py").write_text(WORKING.replace(right, wrong), encoding="utf-8")
    command = ("train", "env=custom", f"env.name=lab.{name}", *TINY[1:], "hydra.run.dir=run")
    assert run(*command) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: {message}\n", error), error
    assert not (lab.parent / "run").exists()


MIXER = """
from qmix_jax.mixers import vdn
Config = vdn.Config
def make(cfg, spec):
    def apply(params, inputs):
        return inputs.q_taken + "one"
    return vdn.make(cfg, spec)._replace(apply=apply)
"""


def test_a_broken_mixer_is_a_one_line_error(lab, capsys):
    (lab / "adds.py").write_text(MIXER, encoding="utf-8")
    assert run("train", *TINY, "algo=vdn", "algo.mixer.name=lab.adds", "hydra.run.dir=run") == 2
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"error: mixer: 'lab\.adds' failed at adds\.py:6 \(TypeError: .*\); fix the module\n", error
    ), error


def raising(error):
    def make(*_):
        raise error

    return make


@pytest.mark.parametrize(
    ("environment", "error"),
    [
        ((), KeyError("a defect")),
        (("env=custom", "env.name=examples.rescue"), OSError(28, "No space left on device")),
        (("env=custom", "env.name=examples.rescue"), RuntimeError("out of memory")),
    ],
    ids=["no user code", "the disk", "the device"],
)
def test_errors_elsewhere_do_not_blame_user_code(monkeypatch, environment, error):
    monkeypatch.setattr(program.plan, "make", raising(error))
    with pytest.raises(type(error), match=re.escape(str(error))):
        run("train", *TINY, *environment)
