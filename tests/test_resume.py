"""A run that is cut anywhere goes on to the same numbers as one that never was."""

import csv
import json
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
from toys import members

import qmix_jax
from qmix_jax import api, config
from qmix_jax.runs import checkpoint
from qmix_jax.training import launching, loop

pytestmark = pytest.mark.usefixtures("empty_pictures")

CUTS = int(os.environ.get("QMIX_JAX_CUTS", "1"))
"""Random cut points of each case."""

IQL = {"name": "iql", "algorithm": "iql", "mixer": None}
SHORT = {"env_steps": 400, "log_every": 90}
TWO_STEP = {
    "name": "two_step",
    "env": {"name": "two_step"},
    "agent": {"name": "mlp", "options": {"hidden": 8}},
    "trainer": {"collector": "episode", **SHORT},
    "eval": {"every": 150},
}
WINDOW = {
    "trainer": {"collector": "window", "window": 4, **SHORT},
    "replay": {"capacity": 30},
    "eval": {"every": 150},
}
CASES = {
    "qmix on counting, windows": WINDOW,
    "vdn on counting, segments, prioritised": {
        **members.SMALL,
        "trainer": SHORT,
        "replay": {"kind": "prioritised"},
        "eval": {"every": 150},
    },
    "iql on two_step": {**TWO_STEP, "algo": IQL},
    "vdn on a PettingZoo environment": {
        **TWO_STEP,
        "algo": members.SMALL["algo"],
        "env": {"name": "pettingzoo", "options": {"id": "toys.parallel"}},
    },
}
MACHINE = ("time_s", "perf/env_steps_per_s")


class Cut(BaseException):
    """Stands for the end of a process: nothing but `finally` runs after it."""


def load(case, **more):
    fixed = {"seeds": 3, "seed": 4, "resume": "auto", "checkpoint": {"every_s": 0.0}}
    both = {**CASES[case], **fixed}
    return members.load(**{**both, **more})


def rows(directory):
    """The metrics as text, without what depends on the machine."""
    with (directory / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in MACHINE} for row in csv.DictReader(file)]


def same(a, b):
    for x, y in zip(members.leaves(a), members.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def state(directory):
    """All arrays of the newest checkpoint."""
    return checkpoint.newest(directory / checkpoint.FOLDER).load()


def train(cfg, directory, programs):
    (result,) = api.train_many([api.Job(cfg, directory)], programs=programs)
    return result


@pytest.fixture(autouse=True)
def _short_calls(monkeypatch):
    """A call is one update, so that a cut can come after any."""
    monkeypatch.setattr(loop, "_CALL_SECONDS", 0.0)


@pytest.fixture
def at_call(monkeypatch):
    """`at_call(n, act)`: `act()` comes once, in the n-th compiled call from now on."""
    proper = loop._wait

    def after(calls, act):
        left = iter(range(calls))

        def wait(tree):
            proper(tree)
            if next(left, None) is None:
                monkeypatch.setattr(loop, "_wait", proper)
                act()

        monkeypatch.setattr(loop, "_wait", wait)

    return after


@pytest.fixture
def cut(at_call):
    """`cut(n)`: the n-th compiled call from now on ends the process."""

    def end():
        raise Cut

    return lambda calls: at_call(calls, end)


@pytest.fixture
def signalled(at_call):
    """`signalled(n)`: SIGTERM comes during the n-th compiled call from now on."""

    def send():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)  # the listener hears it

    return lambda calls: at_call(calls, send)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Case -> (its run without a cut, the compiled programs, with the replay at the end)."""
    made = {}

    def get(case):
        if case not in made:
            programs = api.Programs()
            cfg = load(case, checkpoint={"replay": "always", "every_s": 1e6})
            folder = tmp_path_factory.mktemp("reference") / "run"
            made[case] = (train(cfg, folder, programs), programs)
        return made[case]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("number", range(CUTS))
@pytest.mark.parametrize("case", CASES)
def test_cut_anywhere_it_goes_on_to_the_same_numbers(case, number, reference, cut, tmp_path):
    whole, programs = reference(case)
    cfg = load(case, checkpoint={"replay": "always", "every_s": 0.0})
    n_calls = whole.plan.n_updates + whole.plan.warm_up_collects
    cut(random.Random(f"{case} {number}").randrange(1, n_calls))
    with pytest.raises(Cut):
        train(cfg, tmp_path / "run", programs)
    again = train(cfg, tmp_path / "run", programs)
    same(again.parameters, whole.parameters)
    same(again.best_parameters, whole.best_parameters)
    assert rows(again.directory) == rows(whole.directory)
    before, after = state(whole.directory), state(again.directory)
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)


# One small program for all that follows


@pytest.fixture(scope="module")
def programs():
    return api.Programs()


def small(**more):
    return load("iql on two_step", **{"seeds": 2, **more})


def cut_run(folder, programs, cut, at=9, **more):
    """A run that ended without a word after so many calls."""
    cut(at)
    with pytest.raises(Cut):
        train(small(**more), folder, programs)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, programs):
    return train(small(), tmp_path_factory.mktemp("whole") / "run", programs)


def test_a_run_that_has_ended_is_read_back(whole, monkeypatch):
    monkeypatch.setattr(launching, "build", None)
    again = api.train(small(), whole.directory)
    same(again.parameters, whole.parameters)
    assert rows(again.directory) == rows(whole.directory)


def test_a_longer_run_begins_as_the_shorter_one(whole, programs, tmp_path):
    shutil.copytree(whole.directory, tmp_path / "run")
    longer = small(trainer={**TWO_STEP["trainer"], "env_steps": 600})
    result = train(longer, tmp_path / "run", programs)
    assert result.plan.n_updates > whole.plan.n_updates
    found, before = rows(result.directory), rows(whole.directory)
    assert found[: len(before)] == before
    assert int(found[-1]["env_steps"]) == result.plan.env_steps
    manifest = json.loads((result.directory / "manifest.json").read_text())
    assert [one["env_steps"] for one in manifest["resumed"]] == [whole.plan.env_steps]
    assert manifest["reached"]["updates"] == result.plan.n_updates


def test_nothing_is_lost_where_no_checkpoint_was_made_yet(cut, programs, whole, tmp_path):
    path = cut_run(tmp_path / "run", programs, cut, at=0)
    assert not checkpoint.complete_steps(path / checkpoint.FOLDER)
    before = (path / "metrics.csv").read_text()
    result = train(small(), path, programs)
    assert (path / "metrics.interrupted-1.csv").read_text() == before
    assert rows(path) == rows(whole.directory)
    same(result.parameters, whole.parameters)


@pytest.mark.slow
def test_without_the_replay_it_is_collected_anew(cut, signalled, programs, whole, tmp_path, capsys):
    never = {"checkpoint": {"replay": "never", "every_s": 0.0}}
    path = cut_run(tmp_path / "run", programs, cut, at=12, **never)
    found = checkpoint.newest(path / checkpoint.FOLDER)
    assert not any("replay" in name for name in found.load())
    signalled(1)  # while it is collected
    assert train(small(**never), path, programs).interrupted
    assert checkpoint.complete_steps(path / checkpoint.FOLDER)[-1] == found.step, "as it was"
    result = train(small(**never), path, programs)
    assert "it was collected anew" in capsys.readouterr().out
    assert all(np.isfinite(leaf).all() for leaf in members.leaves(result.parameters))
    assert len(rows(path)) == len(rows(whole.directory))
    with pytest.raises(AssertionError):
        same(result.parameters, whole.parameters)


def test_the_checkpoint_at_the_end_has_no_replay_unless_asked_for(whole, reference):
    assert len(checkpoint.complete_steps(whole.directory / checkpoint.FOLDER)) == 1, "nor the others"
    assert not any("replay" in name for name in state(whole.directory))
    assert any("replay" in name for name in state(reference("iql on two_step")[0].directory))


CHANGED = {
    "hparams.gamma=0.99 (now 0.5)": {"hparams": {"gamma": 0.5}},
    "seed=4 (now 5)": {"seed": 5},
    "replay.batch_size=4 (now 8)": {"replay": {"batch_size": 8}},
}


@pytest.mark.parametrize("text", CHANGED)
def test_another_run_is_refused_with_the_difference(text, whole, monkeypatch):
    monkeypatch.setattr(launching, "build", None)
    before = {path: path.read_bytes() for path in whole.directory.glob("*.*")}
    with pytest.raises(config.ConfigError) as error:
        api.train(small(**CHANGED[text]), whole.directory)
    assert f"was trained with {text}; leave that as it was" in str(error.value)
    assert {path: path.read_bytes() for path in whole.directory.glob("*.*")} == before


@pytest.mark.slow
def test_a_longer_run_that_is_cut_goes_on_with_the_same_replay(programs, cut, tmp_path):
    """Its size followed from the number of env steps at first, and must not do so again."""
    derived = {"batch_size": 4, "capacity": None}
    longer = {"trainer": {**TWO_STEP["trainer"], "env_steps": 900}, "replay": derived}
    cfg = small(replay=derived)
    begun = train(cfg, tmp_path / "derived", programs)
    cut(20)
    with pytest.raises(Cut):
        train(small(**longer), begun.directory, programs)
    again = train(small(**longer), begun.directory, programs)
    assert again.config.replay.capacity == begun.plan.capacity


def files(directory):
    return {path: path.read_bytes() for path in directory.glob("*.*")}


def test_a_run_cannot_become_shorter(cut, programs, tmp_path):
    path = cut_run(tmp_path / "run", programs, cut, at=50)
    before = files(path)
    shorter = small(trainer={**TWO_STEP["trainer"], "env_steps": 100})
    with pytest.raises(config.ConfigError, match=r"ends at env step 1\d\d, but .* raise it"):
        train(shorter, path, programs)
    assert files(path) == before, "it is as it was"


def test_a_checkpoint_of_another_program_is_refused(cut, programs, tmp_path):
    path = cut_run(tmp_path / "run", programs, cut)
    found = checkpoint.newest(path / checkpoint.FOLDER)
    file = found.path / "default" / checkpoint.ARRAYS
    other = {name: values[..., :1] for name, values in found.load().items()}
    with file.open("wb") as opened:
        np.savez(opened, **other)
    with pytest.raises(config.ConfigError, match=r"is not of this program .*to start again"):
        train(small(), path, programs)


def test_rows_that_are_gone_are_told(cut, programs, tmp_path):
    path = cut_run(tmp_path / "run", programs, cut, at=40)
    (path / "metrics.jsonl").write_text("")
    with pytest.raises(config.ConfigError, match=r"metrics.jsonl' is missing or shorter"):
        train(small(), path, programs)


def test_without_a_directory_there_is_nothing_to_go_on_from():
    with pytest.raises(config.ConfigError, match=r"resume=auto resumes in a directory"):
        api.train(small())


def test_a_new_run_still_refuses_a_used_directory(whole, tmp_path):
    with pytest.raises(config.ConfigError, match=r"already has metrics.csv of another run"):
        api.train(small(resume=None), whole.directory)
    folder = shutil.copytree(whole.directory / checkpoint.FOLDER, tmp_path / checkpoint.FOLDER)
    with pytest.raises(config.ConfigError, match=r"has checkpoints of another run; choose"):
        api.train(small(resume=None), tmp_path)
    assert checkpoint.complete_steps(folder), "it is still there"


# Several runs


SETTINGS = ({"hparams": {"gamma": 0.9}}, {"seed": 7, "seeds": 1}, {"trainer": {"n_envs": 4}})


def jobs(folder, **more):
    made = []
    for i, values in enumerate(SETTINGS):
        trainer = {**TWO_STEP["trainer"], **values.get("trainer", {})}
        cfg = small(**{**values, **more, "trainer": trainer})
        made.append(api.Job(cfg, folder / str(i), label=str(i)))
    return made


HALVING = api.Halving((0.4,), keep=0.4)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory, programs):
    folder = tmp_path_factory.mktemp("sweeps")
    return {
        None: api.train_many(jobs(folder / "all"), folder / "all", programs=programs),
        HALVING: api.train_many(
            jobs(folder / "halved"), folder / "halved", programs=programs, halving=HALVING
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("halving", "at"), [(None, 15), (None, 50), (HALVING, 50), (HALVING, 80)])
def test_a_sweep_goes_on_where_it_was_cut(halving, at, sweeps, programs, cut, tmp_path):
    cut(at)
    with pytest.raises(Cut):
        api.train_many(jobs(tmp_path), tmp_path, programs=programs, halving=halving)
    results = qmix_jax.resume_many(tmp_path) if at == 50 else None
    if results is None:
        results = api.train_many(jobs(tmp_path), tmp_path, programs=programs, halving=halving)
    for result, expected in zip(results, sweeps[halving], strict=True):
        same(result.parameters, expected.parameters)
        same(result.best_parameters, expected.best_parameters)
        assert rows(result.directory) == rows(expected.directory)
        assert result.pruned == expected.pruned
    index = json.loads((tmp_path / "index.json").read_text())
    assert {job["status"] for job in index["jobs"]} <= {"finished", "pruned"}


@pytest.mark.slow
@pytest.mark.parametrize(("halving", "at"), [(HALVING, 1), (None, 45)])
def test_a_sweep_goes_on_after_a_signal(halving, at, sweeps, programs, signalled, tmp_path):
    signalled(at)
    first = api.train_many(jobs(tmp_path), tmp_path, programs=programs, halving=halving)
    assert any(result is None or result.interrupted for result in first)
    results = api.train_many(jobs(tmp_path), tmp_path, programs=programs, halving=halving)
    for result, expected in zip(results, sweeps[halving], strict=True):
        same(result.parameters, expected.parameters)
        assert rows(result.directory) == rows(expected.directory)
        assert (result.pruned, result.interrupted) == (expected.pruned, False)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut", "signal"])
def test_slices_go_on_where_they_were_cut(how, programs, cut, signalled, tmp_path):
    fixed = {"seeds": 5, "population": {"devices": 1, "batching": "map"}}
    expected = train(load("iql on two_step", **fixed), tmp_path / "whole", programs)
    kept = programs.get
    few = type("Few", (), {"get": lambda self, *a: (kept(*a)[0], 2)})()
    n_calls = expected.plan.n_updates + expected.plan.warm_up_collects
    if how == "cut":
        cut(int(1.5 * n_calls))
        with pytest.raises(Cut):
            train(load("iql on two_step", **fixed), tmp_path / "run", few)
    else:
        signalled(int(1.5 * n_calls))
        assert train(load("iql on two_step", **fixed), tmp_path / "run", few).interrupted
    found = checkpoint.newest(tmp_path / "run" / checkpoint.FOLDER)
    assert found.meta["spans"] == [[0, 2], [2, 4]] and found.meta["leg"] == 1
    assert found.meta["outcomes"]["0"]["update"] == expected.plan.n_updates
    result = train(load("iql on two_step", **fixed), tmp_path / "run", few)
    same(result.parameters, expected.parameters)
    same(result.best_parameters, expected.best_parameters)
    assert rows(result.directory) == rows(expected.directory)


def test_one_run_of_a_sweep_does_not_go_on_alone(programs, cut, tmp_path):
    cut(20)
    with pytest.raises(Cut):
        api.train_many(jobs(tmp_path), tmp_path, programs=programs)
    with pytest.raises(config.ConfigError, match=r"of 2 run\(s\) trained together, but this is 1"):
        qmix_jax.resume(tmp_path / "0")
    with pytest.raises(config.ConfigError, match=r"no checkpoint in .* of the whole sweep"):
        qmix_jax.resume(tmp_path / "1")
    one = jobs(tmp_path)[1]
    before = files(one.directory)
    with pytest.raises(
        config.ConfigError, match=r"the checkpoints of all are in .*/0/checkpoints'"
    ):
        api.train(one.config, one.directory)
    assert files(one.directory) == before
    with pytest.raises(config.ConfigError, match=r"cannot read .*sweep.json"):
        qmix_jax.resume_many(tmp_path / "0")
