"""`hydra/sweeper=optuna`: spaces, batches, and resuming a study."""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import types

import optuna
import pytest
from toys.command_line import run

from qmix_jax import api, config
from qmix_jax.cli import composition, search, search_space

LOG = "hparams.learning_rate=tag(log,interval(1e-4,1e-2))"
TINY = (
    "experiment=two_step",
    "seeds=1",
    "trainer.env_steps=400",
    "trainer.log_every=100",
    "eval.every=100",
)
SEARCH = ("train", "-m", "hydra/sweeper=optuna", "hydra.sweep.dir=study", *TINY)


@pytest.fixture
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study(folder):
    backend = optuna.storages.journal.JournalFileBackend(str(folder / search.STUDY))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name="qmix_jax", storage=storage)


def test_spaces_in_the_grammar_of_hydra():
    overrides = [
        "seeds=2",
        LOG,
        "hparams.gamma=interval(0.9,0.99)",
        "replay.batch_size=int(interval(4,32))",
        "algo=choice(qmix,vdn)",
        "hydra.sweep.dir=x",
    ]
    with composition.composer(composition.Sources()) as composer:
        space = search_space.parse(overrides, composer)
    kinds = [dimension.distribution for dimension in space.dimensions]
    assert kinds == [
        optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
        optuna.distributions.FloatDistribution(0.9, 0.99),
        optuna.distributions.IntDistribution(4, 32),
        optuna.distributions.CategoricalDistribution(["qmix", "vdn"]),
    ]
    assert space.fixed == ("seeds=2",)
    assert [dimension.traced for dimension in space.dimensions] == [True, True, False, False]
    assert space.n_static(1000) == 29 * 2 and space.n_static(8) == 8
    setting = space.overrides({"hparams.gamma": 0.91, "algo": "vdn"})
    assert setting == ["seeds=2", "hparams.gamma=0.91", "algo=vdn"]
    low, *high = space.corners()
    assert low[1:] == [
        "hparams.learning_rate=0.0001", "hparams.gamma=0.9", "replay.batch_size=4", "algo=qmix",
    ]  # fmt: skip
    assert [overrides[i + 1] for i, overrides in enumerate(high)] == [
        "hparams.learning_rate=0.01", "hparams.gamma=0.99", "replay.batch_size=32", "algo=vdn",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "nothing to search"),
        (("seed=0,1",), "averaged over"),
        (("hparams.gamma=interval(0.9,0.9)",), "is empty"),
        (("hparams.gamma=tag(log,interval(0,0.9))",), "needs a lower end above 0"),
        (("hparams.gamma=tag(normal,interval(0.1,0.9))",), "unknown tag 'normal'; allowed: log"),
        (("hparams.gamma=tag(log,choice(0.1,0.9))",), "the tag log needs interval"),
        (("seeds=range(3,3)",), "has no values"),
        (("hparams.gamma=interval(0.9,1.5)",), "hparams.gamma"),
        (("hparams.gama=interval(0.9,0.99)",), "did you mean 'hparams.gamma'"),
        (("hparams.gamma=choice(a,b)",), "hparams.gamma"),
        ((LOG, "hydra.sweeper.keep=1.5"), "hydra.sweeper.keep"),
        ((LOG, "hydra.sweeper.rungs=[0.9,0.5]"), "must increase"),
        ((LOG, "hydra.sweeper.n_trails=3"), "n_trails"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_trained(overrides, message, here, capsys):
    assert run(*SEARCH, *overrides) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not list(here.rglob("metrics.csv"))


def test_a_search_needs_multirun(here, capsys):
    assert run("train", "hydra/sweeper=optuna", LOG) == 2
    assert "optuna needs -m" in capsys.readouterr().err


def test_a_missing_extra_is_named(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert run(*SEARCH, LOG) == 2
    assert "pip install 'qmix-jax[optuna]'" in capsys.readouterr().err


def search_in(folder, *arguments):
    """Returns exit code and output of a search in a folder."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).chdir(folder)
        out = stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        err = stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        code = run(*SEARCH, LOG, *arguments)
    return types.SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    options = (
        "hydra.sweeper.n_trials=5",
        "hydra.sweeper.batch=4",
        "hydra.sweeper.rungs=[0.5]",
        "hydra.sweeper.metric=eval/length",
    )
    first = search_in(folder, "algo=vdn,qmix", *options)
    return folder / "study", options, first


@pytest.mark.slow
def test_a_search_from_start_to_end(searched):
    folder, _, first = searched
    assert first.code == 0, first.err
    assert "at most 4 compiled programs: 2 static group(s) x 2 population size(s)" in first.out
    trials = study(folder).trials
    assert len(trials) == 5
    states = [trial.state.name for trial in trials]
    assert states.count("PRUNED") == 2 and states.count("COMPLETE") == 3
    for trial in trials:
        (run_directory,) = folder.glob(f"{trial.number}_*")
        manifest = json.loads((run_directory / "manifest.json").read_text())
        assert manifest["config"]["hparams"]["learning_rate"]["start"] == pytest.approx(
            trial.params["hparams.learning_rate"]
        )
        assert manifest["config"]["algo"]["name"] == trial.params["algo"]
        assert manifest["reached"]["pruned"] == (trial.state.name == "PRUNED")
    with (folder / search.TRIALS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == [state.lower() for state in states]
    assert "trials.csv" in first.out


@pytest.mark.slow
def test_a_finished_search_is_complete_and_can_be_extended(searched):
    folder, options, _ = searched
    again = search_in(folder.parent, "algo=vdn,qmix", *options)
    assert again.code == 0, again.err
    assert len(study(folder).trials) == 5, "nothing is left to train"
    more = (*options[1:], "hydra.sweeper.n_trials=6")
    longer = search_in(folder.parent, "algo=vdn,qmix", *more)
    assert longer.code == 0, longer.err
    assert len(study(folder).trials) == 6
    other = search_in(folder.parent, "algo=vdn", *options)
    assert other.code == 2
    assert "belongs to another search (fixed:" in other.err


def has_rows(folder, number):
    """Returns whether a trial has written rows besides the header."""
    return any(path.stat().st_size > 1000 for path in folder.glob(f"{number}_*/metrics.csv"))


@pytest.mark.slow
def test_a_killed_search_resumes_and_repeats_nothing(here, environment):
    options = ("hydra.sweeper.n_trials=4", "hydra.sweeper.batch=2", "trainer.env_steps=10_000")
    command = [sys.executable, "-m", "qmix_jax", *SEARCH, LOG, *options]
    process = subprocess.Popen(
        command, cwd=here, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 400
    while not has_rows(here / "study", 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = study(here / "study").trials
    assert [trial.state.name for trial in before] == ["COMPLETE"] * 2 + ["RUNNING"] * 2
    result = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    after = study(here / "study").trials
    assert [trial.state.name for trial in after] == ["COMPLETE"] * 4
    assert [trial.params for trial in after] == [trial.params for trial in before]
    assert [trial.value for trial in after[:2]] == [trial.value for trial in before[:2]]
    assert "2 finished, 2 to resume" in result.stdout
    assert "\nresume: " in result.stdout


def test_one_search_per_directory(here, capsys):
    with search._lock(here / "study"):
        assert run(*SEARCH, LOG) == 2
    assert "another search is running" in capsys.readouterr().err


@pytest.mark.slow
def test_an_invalid_setting_fails_alone(here, monkeypatch, capsys):
    """Both spaces are valid at their ends, but not every pair of values is."""
    trained = []

    def train_many(jobs, **_):
        trained.extend(jobs)
        result = types.SimpleNamespace(objective=1.0, interrupted=False, pruned=False)
        return [result for _ in jobs]

    monkeypatch.setattr(api, "train_many", train_many)
    spaces = ("replay.batch_size=choice(4,64)", "replay.capacity=choice(100,32)")
    options = ("hydra.sweeper.n_trials=12", "hydra.sweeper.sampler=random")
    assert run(*SEARCH, *spaces, *options) == 0, capsys.readouterr().err
    trials = study(here / "study").trials
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    assert failed and len(failed) + len(trained) == 12
    assert all(trial.params == {
        "replay.batch_size": "64", "replay.capacity": "32"} for trial in failed)  # fmt: skip
    assert "replay.batch_size=64 exceeds replay.capacity=32" in failed[0].user_attrs["refusal"]


def test_the_ends_of_a_space_are_checked_first(here, capsys):
    assert run(*SEARCH, "replay.capacity=choice(2,500)") == 2
    assert "replay.batch_size=32 exceeds replay.capacity=2" in capsys.readouterr().err


def test_an_invalid_option_of_the_sweeper_names_the_key():
    with pytest.raises(config.ConfigError, match=r"hydra\.sweeper"):
        config.validate(search.SweeperSettings, {"batch": 0}, ("hydra", "sweeper"))
