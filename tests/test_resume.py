"""A run killed anywhere resumes to the results of an uninterrupted run."""

import json
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
from toys import members
from toys.comparison import assert_equal, rows

import qmix_jax
from qmix_jax import api, config
from qmix_jax.runs import checkpoint
from qmix_jax.training import launching, loop

pytestmark = pytest.mark.usefixtures("empty_pictures")

CUTS = int(os.environ.get("QMIX_JAX_CUTS", "1"))
"""Random points at which each case is killed."""

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


class Killed(BaseException):
    """Simulates a killed process: only `finally` blocks run after it."""


def load(case, **more):
    common = {"seeds": 3, "seed": 4, "resume": "auto", "checkpoint": {"every_s": 0.0}}
    return members.load(**{**CASES[case], **common, **more})


def state(directory):
    """All arrays of the newest checkpoint."""
    return checkpoint.newest(directory / checkpoint.FOLDER).load()


def train(cfg, directory, programs):
    (result,) = api.train_many([api.Job(cfg, directory)], programs=programs)
    return result


@pytest.fixture(autouse=True)
def _short_calls(monkeypatch):
    """Makes each compiled call one update, so that a run can be killed after any."""
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)


@pytest.fixture
def at_call(monkeypatch):
    """`at_call(n, act)`: calls `act()` once, in the n-th compiled call from now on."""
    original = loop._wait

    def after(calls, act):
        remaining = iter(range(calls))

        def wait(tree):
            original(tree)
            if next(remaining, None) is None:
                monkeypatch.setattr(loop, "_wait", original)
                act()

        monkeypatch.setattr(loop, "_wait", wait)

    return after


@pytest.fixture
def kill_at(at_call):
    """`kill_at(n)`: the n-th compiled call from now on ends the process."""

    def kill():
        raise Killed

    return lambda calls: at_call(calls, kill)


@pytest.fixture
def signal_at(at_call):
    """`signal_at(n)`: SIGTERM arrives during the n-th compiled call from now on."""

    def send():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)  # for the listener

    return lambda calls: at_call(calls, send)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Case -> (result of an uninterrupted run that saves its replay at the end, its programs)."""
    references = {}

    def get(case):
        if case not in references:
            programs = api.Programs()
            cfg = load(case, checkpoint={"replay": "always", "every_s": 1e6})
            folder = tmp_path_factory.mktemp("reference") / "run"
            references[case] = (train(cfg, folder, programs), programs)
        return references[case]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("number", range(CUTS))
@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_anywhere_resumes_to_equal_results(case, number, reference, kill_at, tmp_path):
    uninterrupted, programs = reference(case)
    cfg = load(case, checkpoint={"replay": "always", "every_s": 0.0})
    n_calls = uninterrupted.plan.n_updates + uninterrupted.plan.warm_up_collects
    kill_at(random.Random(f"{case} {number}").randrange(1, n_calls))
    with pytest.raises(Killed):
        train(cfg, tmp_path / "run", programs)
    again = train(cfg, tmp_path / "run", programs)
    assert_equal(again.parameters, uninterrupted.parameters)
    assert_equal(again.best_parameters, uninterrupted.best_parameters)
    assert rows(again.directory) == rows(uninterrupted.directory)
    before, after = state(uninterrupted.directory), state(again.directory)
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)


# One small program for the following tests


@pytest.fixture(scope="module")
def programs():
    return api.Programs()


def small(**more):
    return load("iql on two_step", **{"seeds": 2, **more})


def killed_run(folder, programs, kill_at, at=9, **more):
    """The directory of a run killed in compiled call `at`."""
    kill_at(at)
    with pytest.raises(Killed):
        train(small(**more), folder, programs)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, programs):
    return train(small(), tmp_path_factory.mktemp("uninterrupted") / "run", programs)


def test_a_finished_run_is_read_back(uninterrupted, monkeypatch):
    monkeypatch.setattr(launching, "build", None)
    again = api.train(small(), uninterrupted.directory)
    assert_equal(again.parameters, uninterrupted.parameters)
    assert rows(again.directory) == rows(uninterrupted.directory)


def test_a_lengthened_run_keeps_its_earlier_rows(uninterrupted, programs, tmp_path):
    shutil.copytree(uninterrupted.directory, tmp_path / "run")
    longer = small(trainer={**TWO_STEP["trainer"], "env_steps": 600})
    result = train(longer, tmp_path / "run", programs)
    assert result.plan.n_updates > uninterrupted.plan.n_updates
    longer_rows, shorter_rows = rows(result.directory), rows(uninterrupted.directory)
    assert longer_rows[: len(shorter_rows)] == shorter_rows
    assert int(longer_rows[-1]["env_steps"]) == result.plan.env_steps
    manifest = json.loads((result.directory / "manifest.json").read_text())
    assert [entry["env_steps"] for entry in manifest["resumed"]] == [uninterrupted.plan.env_steps]
    assert manifest["reached"]["updates"] == result.plan.n_updates


def test_without_a_checkpoint_old_rows_are_renamed(kill_at, programs, uninterrupted, tmp_path):
    path = killed_run(tmp_path / "run", programs, kill_at, at=0)
    assert not checkpoint.complete_steps(path / checkpoint.FOLDER)
    before = (path / "metrics.csv").read_text()
    result = train(small(), path, programs)
    assert (path / "metrics.interrupted-1.csv").read_text() == before
    assert rows(path) == rows(uninterrupted.directory)
    assert_equal(result.parameters, uninterrupted.parameters)


@pytest.mark.slow
def test_a_replay_that_was_not_saved_is_collected_again(
    kill_at, signal_at, programs, uninterrupted, tmp_path, capsys
):
    never = {"checkpoint": {"replay": "never", "every_s": 0.0}}
    path = killed_run(tmp_path / "run", programs, kill_at, at=12, **never)
    saved = checkpoint.newest(path / checkpoint.FOLDER)
    assert not any("replay" in name for name in saved.load())
    signal_at(1)  # during the collection
    assert train(small(**never), path, programs).interrupted
    assert checkpoint.complete_steps(path / checkpoint.FOLDER)[-1] == saved.step, "unchanged"
    result = train(small(**never), path, programs)
    assert "a new one was collected" in capsys.readouterr().out
    assert all(np.isfinite(leaf).all() for leaf in members.leaves(result.parameters))
    assert len(rows(path)) == len(rows(uninterrupted.directory))
    with pytest.raises(AssertionError):
        assert_equal(result.parameters, uninterrupted.parameters)


def test_the_last_checkpoint_has_a_replay_only_with_replay_always(uninterrupted, reference):
    assert len(checkpoint.complete_steps(uninterrupted.directory / checkpoint.FOLDER)) == 1
    assert not any("replay" in name for name in state(uninterrupted.directory))
    assert any("replay" in name for name in state(reference("iql on two_step")[0].directory))


CHANGED = {
    "hparams.gamma=0.99 (now 0.5)": {"hparams": {"gamma": 0.5}},
    "seed=4 (now 5)": {"seed": 5},
    "replay.batch_size=4 (now 8)": {"replay": {"batch_size": 8}},
}


@pytest.mark.parametrize("text", CHANGED)
def test_a_changed_configuration_is_refused_with_the_difference(text, uninterrupted, monkeypatch):
    monkeypatch.setattr(launching, "build", None)
    before = {path: path.read_bytes() for path in uninterrupted.directory.glob("*.*")}
    with pytest.raises(config.ConfigError) as error:
        api.train(small(**CHANGED[text]), uninterrupted.directory)
    assert f"was trained with {text}; change it back, or" in str(error.value)
    assert {path: path.read_bytes() for path in uninterrupted.directory.glob("*.*")} == before


@pytest.mark.slow
def test_a_lengthened_run_keeps_its_replay_capacity(programs, kill_at, tmp_path):
    """The capacity was derived from the first number of env steps, and is not derived again."""
    derived = {"batch_size": 4, "capacity": None}
    longer = {"trainer": {**TWO_STEP["trainer"], "env_steps": 900}, "replay": derived}
    cfg = small(replay=derived)
    first = train(cfg, tmp_path / "derived", programs)
    kill_at(20)
    with pytest.raises(Killed):
        train(small(**longer), first.directory, programs)
    again = train(small(**longer), first.directory, programs)
    assert again.config.replay.capacity == first.plan.capacity


def files(directory):
    return {path: path.read_bytes() for path in directory.glob("*.*")}


def test_a_shortened_run_is_refused(kill_at, programs, tmp_path):
    path = killed_run(tmp_path / "run", programs, kill_at, at=50)
    before = files(path)
    shorter = small(trainer={**TWO_STEP["trainer"], "env_steps": 100})
    with pytest.raises(config.ConfigError, match=r"ends at env step 1\d\d, but .* raise it"):
        train(shorter, path, programs)
    assert files(path) == before, "unchanged"


def test_a_checkpoint_of_another_program_is_refused(kill_at, programs, tmp_path):
    path = killed_run(tmp_path / "run", programs, kill_at)
    saved = checkpoint.newest(path / checkpoint.FOLDER)
    file = saved.path / "default" / checkpoint.ARRAYS
    other = {name: values[..., :1] for name, values in saved.load().items()}
    with file.open("wb") as opened:
        np.savez(opened, **other)
    with pytest.raises(config.ConfigError, match=r"is of another program .*to start again"):
        train(small(), path, programs)


def test_a_run_with_missing_rows_is_refused(kill_at, programs, tmp_path):
    path = killed_run(tmp_path / "run", programs, kill_at, at=40)
    (path / "metrics.jsonl").write_text("")
    with pytest.raises(config.ConfigError, match=r"metrics.jsonl' is missing or shorter"):
        train(small(), path, programs)


def test_resume_needs_a_directory():
    with pytest.raises(config.ConfigError, match=r"resume=auto needs a fixed directory"):
        api.train(small())


def test_a_new_run_refuses_a_used_directory(uninterrupted, tmp_path):
    with pytest.raises(config.ConfigError, match=r"already has metrics.csv of another run"):
        api.train(small(resume=None), uninterrupted.directory)
    folder = shutil.copytree(
        uninterrupted.directory / checkpoint.FOLDER, tmp_path / checkpoint.FOLDER
    )
    with pytest.raises(config.ConfigError, match=r"has checkpoints of another run; choose"):
        api.train(small(resume=None), tmp_path)
    assert checkpoint.complete_steps(folder), "not removed"


# Several runs


SETTINGS = ({"hparams": {"gamma": 0.9}}, {"seed": 7, "seeds": 1}, {"trainer": {"n_envs": 4}})


def jobs(folder, **more):
    sweep = []
    for i, values in enumerate(SETTINGS):
        trainer = {**TWO_STEP["trainer"], **values.get("trainer", {})}
        cfg = small(**{**values, **more, "trainer": trainer})
        sweep.append(api.Job(cfg, folder / str(i), label=str(i)))
    return sweep


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
def test_a_killed_sweep_resumes_to_equal_results(halving, at, sweeps, programs, kill_at, tmp_path):
    kill_at(at)
    with pytest.raises(Killed):
        api.train_many(jobs(tmp_path), tmp_path, programs=programs, halving=halving)
    results = qmix_jax.resume_many(tmp_path) if at == 50 else None
    if results is None:
        results = api.train_many(jobs(tmp_path), tmp_path, programs=programs, halving=halving)
    for result, expected in zip(results, sweeps[halving], strict=True):
        assert_equal(result.parameters, expected.parameters)
        assert_equal(result.best_parameters, expected.best_parameters)
        assert rows(result.directory) == rows(expected.directory)
        assert result.pruned == expected.pruned
    index = json.loads((tmp_path / "index.json").read_text())
    assert {job["status"] for job in index["jobs"]} <= {"finished", "pruned"}


@pytest.mark.slow
@pytest.mark.parametrize(("halving", "at"), [(HALVING, 1), (None, 45)])
def test_a_signalled_sweep_resumes_to_equal_results(
    halving, at, sweeps, programs, signal_at, tmp_path
):
    signal_at(at)
    first = api.train_many(jobs(tmp_path), tmp_path, programs=programs, halving=halving)
    assert any(result is None or result.interrupted for result in first)
    results = api.train_many(jobs(tmp_path), tmp_path, programs=programs, halving=halving)
    for result, expected in zip(results, sweeps[halving], strict=True):
        assert_equal(result.parameters, expected.parameters)
        assert rows(result.directory) == rows(expected.directory)
        assert (result.pruned, result.interrupted) == (expected.pruned, False)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["kill", "signal"])
def test_slices_resume_to_equal_results(end, programs, kill_at, signal_at, tmp_path):
    fixed = {"seeds": 5, "population": {"devices": 1, "batching": "map"}}
    expected = train(load("iql on two_step", **fixed), tmp_path / "uninterrupted", programs)
    get = programs.get
    few = type("TwoFit", (), {"get": lambda self, *a: (get(*a)[0], 2)})()
    n_calls = expected.plan.n_updates + expected.plan.warm_up_collects
    if end == "kill":
        kill_at(int(1.5 * n_calls))
        with pytest.raises(Killed):
            train(load("iql on two_step", **fixed), tmp_path / "run", few)
    else:
        signal_at(int(1.5 * n_calls))
        assert train(load("iql on two_step", **fixed), tmp_path / "run", few).interrupted
    saved = checkpoint.newest(tmp_path / "run" / checkpoint.FOLDER)
    assert saved.meta["spans"] == [[0, 2], [2, 4]] and saved.meta["leg"] == 1
    assert saved.meta["outcomes"]["0"]["update"] == expected.plan.n_updates
    result = train(load("iql on two_step", **fixed), tmp_path / "run", few)
    assert_equal(result.parameters, expected.parameters)
    assert_equal(result.best_parameters, expected.best_parameters)
    assert rows(result.directory) == rows(expected.directory)


def test_a_single_run_of_a_sweep_cannot_be_resumed(programs, kill_at, tmp_path):
    kill_at(20)
    with pytest.raises(Killed):
        api.train_many(jobs(tmp_path), tmp_path, programs=programs)
    with pytest.raises(config.ConfigError, match=r"of 2 run\(s\) trained together, but this is 1"):
        qmix_jax.resume(tmp_path / "0")
    with pytest.raises(config.ConfigError, match=r"no checkpoint in .* of the .*sweep"):
        qmix_jax.resume(tmp_path / "1")
    job = jobs(tmp_path)[1]
    before = files(job.directory)
    with pytest.raises(
        config.ConfigError, match=r"the checkpoints of all are in .*/0/checkpoints'"
    ):
        api.train(job.config, job.directory)
    assert files(job.directory) == before
    with pytest.raises(config.ConfigError, match=r"cannot read .*sweep.json"):
        qmix_jax.resume_many(tmp_path / "0")
