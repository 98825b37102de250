"""`qmix-jax train resume=...` in this process, on the smallest of games."""

import json
import pathlib

import pytest
from toys.command_line import TINY, run

from qmix_jax.runs import storage

pytestmark = pytest.mark.usefixtures("empty_pictures")


@pytest.fixture(scope="module", autouse=True)
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def ended(here):
    assert run("train", *TINY, "hydra.run.dir=run") == 0
    return here / "run"


@pytest.fixture(scope="module")
def swept(here):
    options = ("-m", "hydra/launcher=fused", "hparams.gamma=0.9,0.8", "hydra.sweep.dir=sweep")
    assert run("train", *TINY, *options) == 0
    return here / "sweep"


def steps(directory):
    return storage.read_metrics(pathlib.Path(directory) / "metrics.csv")["env_steps"].max()


@pytest.mark.slow
def test_a_resumed_run_can_be_longer_and_evaluated_differently(ended, capsys):
    before = steps(ended)
    command = json.loads((ended / "manifest.json").read_text())["command"]
    changes = ("trainer.env_steps=200", "eval={every: 50, episodes: 16}", "logger=tensorboard")
    assert run("train", f"resume={ended}", *changes) == 0, capsys.readouterr().err
    assert "resume: from " in capsys.readouterr().out
    assert steps(ended) >= 200 > before
    manifest = json.loads((ended / "manifest.json").read_text())
    assert manifest["command"] == command and len(manifest["resumed"]) == 1
    assert manifest["config"]["eval"]["episodes"] == 16
    assert manifest["config"]["logger"]["tensorboard"] is not None


@pytest.mark.slow
def test_auto_starts_and_then_has_nothing_left_to_train(ended, capsys):
    again = ("train", *TINY, "hydra.run.dir=auto", "resume=auto")
    assert run(*again) == 0
    assert "resume:" not in capsys.readouterr().out
    before = (pathlib.Path("auto") / "metrics.csv").read_text()
    assert run(*again) == 0
    assert "auto has ended; to continue, raise trainer.env_steps" in capsys.readouterr().out
    assert (pathlib.Path("auto") / "metrics.csv").read_text() == before


@pytest.mark.slow
def test_a_sweep_is_resumed(swept, capsys):
    assert run("train", f"resume={swept}") == 0
    assert "has ended; to continue" in capsys.readouterr().out
    before = [steps(path) for path in sorted(swept.glob("*_two_step_*"))]
    assert run("train", f"resume={swept}", "trainer.env_steps=200") == 0, capsys.readouterr().err
    after = [steps(path) for path in sorted(swept.glob("*_two_step_*"))]
    assert len(after) == 2 and min(after) >= 200 > max(before)


REFUSED = [
    ("resume=nowhere", "resume: 'nowhere' is not a directory; give that of a run or a sweep, or"),
    ("resume=.", "config: cannot read 'config.yaml'"),
    ("resume=RUN seeds=3", "was trained with seeds=1 (now 3); change it back, or"),
    ("resume=RUN algo=vdn", "was trained with algo.name='qmix' (now 'vdn'), "),
    ("resume=RUN hparams.gama=1", "config: unknown key 'hparams.gama'; did you mean"),
    ("resume=RUN eval.every=0", "config: eval.every=0: input should be greater than 0"),
    ("resume=RUN -cd .", "command line: --config-dir cannot be combined with resume=DIR"),
    ("resume=RUN -m", "command line: --multirun cannot be combined with resume=DIR"),
    ("resume=RUN seed=1,2", "command line: 'seed=1,2': give one value per key"),
    ("resume=RUN hydra.run.dir=x", "command line: 'hydra.run.dir=x': give one value per key"),
    ("resume=auto", "resume: resume=auto needs a fixed hydra.run.dir=FOLDER; the default"),
    ("resume=auto -m", "resume: resume=auto needs a fixed hydra.sweep.dir=FOLDER; the default"),
    ("resume=auto hydra.run.dir=RUN seed=5", "was trained with "),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda text: text[:40])
def test_mistakes_are_one_line_and_exit_2(arguments, message, ended, capsys):
    before = {path: path.read_bytes() for path in ended.glob("*.*")}
    words = arguments.replace("RUN", str(ended)).split()
    assert run("train", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert {path: path.read_bytes() for path in ended.glob("*.*")} == before
