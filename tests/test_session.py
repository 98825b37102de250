"""Sessions are driven step by step, as `train` drives them; stop rules end runs early, complete."""

import csv
import json

import numpy as np
import pytest
from toys import members

import qmix_jax
from qmix_jax import api, config, population, program
from qmix_jax.runs import checkpoint, scores
from qmix_jax.training import best, launching, loop, stopping

pytestmark = pytest.mark.usefixtures("empty_pictures")

MACHINE = ("time_s", "perf/env_steps_per_s")
SMALL = {
    "name": "two_step",
    "seeds": 2,
    "env": {"name": "two_step"},
    "agent": {"name": "mlp", "options": {"hidden": 8}},
    "algo": {"name": "iql", "algorithm": "iql", "mixer": None},
    "trainer": {"collector": "episode", "env_steps": 400, "log_every": 90},
    "eval": {"every": 150},
    "resume": "auto",
    "checkpoint": {"every_s": 1e6, "replay": "always"},
}
UNCHANGING = {"metric": "eval/length", "patience": 1}
"""Every episode has two steps: the first scheduled evaluation ends the run."""


def load(**more):
    return members.load(**{**SMALL, **more})


def rows(directory):
    """The metrics as text, without what depends on the machine."""
    with (directory / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in MACHINE} for row in csv.DictReader(file)]


def same(a, b):
    for x, y in zip(members.leaves(a), members.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(autouse=True)
def _short_calls(monkeypatch):
    """A call is one update."""
    monkeypatch.setattr(loop, "_CALL_SECONDS", 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What `train` makes of the configuration."""
    return api.train(load(), tmp_path_factory.mktemp("whole") / "run")


def test_stepping_is_training(whole, tmp_path):
    seen = []
    with qmix_jax.start(load(), tmp_path / "run") as session:
        assert (session.config, session.plan) == (load(), whole.plan)
        assert session.directory == tmp_path / "run"
        while session.step():
            seen.append((session.update, session.env_steps, len(session.metrics["seed"])))
    result = session.result()
    assert len(seen) == whole.plan.n_updates + whole.plan.warm_up_collects
    assert seen == sorted(seen) and seen[-1][:2] == (whole.plan.n_updates, whole.plan.env_steps)
    same(result.parameters, whole.parameters)
    same(result.best_parameters, whole.best_parameters)
    same(session.parameters, whole.parameters)
    assert rows(result.directory) == rows(whole.directory)
    assert (result.interrupted, result.stopped) == (False, None)
    assert not session.step()


def test_evaluating_and_looking_change_nothing(whole, tmp_path):
    found = {}
    with qmix_jax.start(load(), tmp_path / "run") as session:
        while session.step():
            found[session.update] = session.evaluate()
            assert session.parameters["agent"]["head"]["kernel"].shape[0] == 2
    result = session.result()
    assert rows(result.directory) == rows(whole.directory)
    same(result.best_parameters, whole.best_parameters)
    scheduled = whole.metrics["kind"] == "eval"
    for update in np.unique(whole.metrics["update"][scheduled])[1:]:
        at = scheduled & (whole.metrics["update"] == update)
        for name, values in found[int(update)].items():
            np.testing.assert_allclose(values, whole.metrics[name][at], rtol=1e-6)
    assert len(found) > 2 * len(np.unique(whole.metrics["update"][scheduled]))
    with pytest.raises(config.ConfigError, match="nothing is in training"):
        session.evaluate()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop", "leave", "error"])
def test_what_is_ended_early_is_resumed_to_the_same_numbers(how, whole, tmp_path):
    cfg = load(checkpoint={"every_s": 0.0, "replay": "always"})
    try:
        with qmix_jax.start(cfg, tmp_path / "run") as session:
            while session.step():
                if session.update == 20 and how == "stop":
                    session.stop()
                elif session.update == 20 and how == "leave":
                    break
                elif session.update == 20:
                    raise ZeroDivisionError
        assert session.update == 20 and session.result().interrupted
    except ZeroDivisionError:
        assert how == "error"
    again = qmix_jax.resume(tmp_path / "run")
    assert not again.interrupted
    same(again.parameters, whole.parameters)
    same(again.best_parameters, whole.best_parameters)
    assert rows(again.directory) == rows(whole.directory)


@pytest.mark.slow
def test_a_checkpoint_is_made_when_asked_for(tmp_path):
    with qmix_jax.start(load(), tmp_path / "run") as session:
        while session.update < 20:
            session.step()
        session.save()
        session.save()
        saved = checkpoint.newest(tmp_path / "run" / checkpoint.FOLDER)
        while saved is None or saved.step < session.env_steps:
            saved = checkpoint.newest(tmp_path / "run" / checkpoint.FOLDER)
        assert saved.meta["groups"][0]["update"] == 20
    with qmix_jax.start(load(checkpoint={"enabled": False}), tmp_path / "none") as session:
        with pytest.raises(config.ConfigError, match=r"needs checkpoint.enabled=true"):
            session.save()
        session.stop()


def test_callbacks_see_every_step_and_may_stop(tmp_path):
    updates = []

    def watch(session):
        updates.append(session.update)
        if len(updates) == 15:
            session.stop()

    result = qmix_jax.train(load(), tmp_path / "run", callbacks=[watch])
    assert len(updates) == 15 and result.interrupted
    assert result.metrics["update"].max() == updates[-1]


def test_what_cannot_be_started_is_one_line(whole):
    with pytest.raises(config.ConfigError, match=r"has ended; .* or read it with qmix_jax.load_ru"):
        qmix_jax.start(load(), whole.directory)
    for train in (qmix_jax.start, lambda cfg: qmix_jax.train(cfg, callbacks=[print])):
        with pytest.raises(config.ConfigError, match=r"set population.distributed=false"):
            train(load(population={"distributed": True}))


# Stop rules


@pytest.mark.slow
def test_a_run_that_a_rule_ended_is_complete_and_goes_on_when_the_rule_is_lifted(
    whole, tmp_path, capsys, monkeypatch
):
    result = api.train(load(stop=UNCHANGING), tmp_path / "run")
    assert (result.interrupted, result.pruned) == (False, False)
    assert result.stopped == (
        "stop.patience=1: eval/length was never better than 2 for 1 evaluation(s)"
    )
    assert f"ended by {result.stopped}" in capsys.readouterr().out
    plan = whole.plan
    assert result.metrics["update"].max() == plan.eval_every < plan.n_updates
    written = rows(result.directory)
    assert written == rows(whole.directory)[: len(written)]
    manifest = json.loads((result.directory / "manifest.json").read_text())
    assert manifest["reached"]["stopped"] == result.stopped
    assert qmix_jax.load_run(result.directory).stopped == result.stopped
    with monkeypatch.context() as patch:
        patch.setattr(launching, "build", None)
        again = api.train(load(stop=UNCHANGING), tmp_path / "run")
    assert again.stopped == result.stopped
    assert f"has ended, by {result.stopped}; to train on, raise" in capsys.readouterr().out
    longer = qmix_jax.resume(tmp_path / "run", {"stop.patience": None, "stop.metric": None})
    assert longer.stopped is None
    same(longer.parameters, whole.parameters)
    assert rows(longer.directory) == rows(whole.directory)


@pytest.mark.slow
def test_in_a_sweep_the_rule_ends_one_job_and_no_other(whole, tmp_path):
    jobs = [
        api.Job(load(), tmp_path / "a"),
        api.Job(load(seed=3, stop=UNCHANGING), tmp_path / "b", label="b"),
    ]
    first, second = api.train_many(jobs, tmp_path)
    same(first.parameters, whole.parameters)
    assert rows(first.directory) == rows(whole.directory)
    assert first.stopped is None and second.stopped.startswith("stop.patience=1")
    assert second.metrics["update"].max() == whole.plan.eval_every
    index = json.loads((tmp_path / "index.json").read_text())
    assert len(index["groups"]) == 1, "rules change no program"
    assert [job["stopped"] for job in index["jobs"]] == [None, second.stopped]
    assert {job["status"] for job in index["jobs"]} == {"finished"}
    alone = api.train(load(seed=3, stop=UNCHANGING), tmp_path / "alone")
    same(second.parameters, alone.parameters)
    assert rows(second.directory) == rows(alone.directory)


def test_seconds_end_a_run_at_once_and_it_is_evaluated(tmp_path):
    result = api.train(load(stop={"seconds": 1e-9}), tmp_path / "run")
    assert result.stopped.startswith("stop.seconds=1e-09: trained for ")
    last = result.metrics["update"] == result.metrics["update"].max()
    assert set(result.metrics["kind"][last]) >= {"eval"}
    assert 0 <= result.metrics["update"].max() < result.plan.eval_every


BAD_RULES = {
    r"unknown stop.metric='eval/retrun' on two_step; did you mean 'eval/return'\? allowed: "
    r"eval/return, .*eval/length": {"metric": "eval/retrun", "at": 1.0},
    r"no rule uses stop.metric=eval/return; set stop.at or stop.patience": {
        "metric": "eval/return"
    },
}


@pytest.mark.parametrize("message", BAD_RULES)
def test_rules_that_cannot_be_honoured_are_refused_before_compiling(message, tmp_path, monkeypatch):
    monkeypatch.setattr(population, "compile_programs", None)
    with pytest.raises(config.ConfigError, match=message):
        api.train(load(stop=BAD_RULES[message]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def spec(**more):
    facts = program.environment(load()).spec
    return facts.__class__(**{**vars(facts), "metric_names": ("cost", "win_rate"), **more})


def verdicts(rules, values, **more):
    watch = stopping.StopRules(config.StopConfig(**rules), spec(**more))
    found = []
    for value in values:
        watch.update({watch.metric: np.array([value - 1, value + 1])})
        found.append(watch.verdict(0.0))
    return watch.metric, [text is not None for text in found]


def test_rules_by_hand():
    least = {"best_metrics": (("cost", "min"),)}
    assert verdicts({"at": 5.0}, [1, 4.9, 5, 3]) == ("eval/win_rate", [0, 0, 1, 0])
    assert verdicts({"at": 5.0}, [9, 5.1, 5], **least) == ("eval/cost", [0, 0, 1])
    assert verdicts({"patience": 2}, [1, 2, 2, 1.5, 9])[1] == [0, 0, 0, 1, 0]
    assert verdicts({"patience": 2}, [9, 8, 8, 8], **least)[1] == [0, 0, 0, 1]
    assert verdicts({"metric": "eval/length", "at": 3.0}, [2, 3])[1] == [0, 1]
    watch = stopping.StopRules(config.StopConfig(seconds=10.0), spec())
    assert watch.verdict(9.0) is None and watch.verdict(10.0).startswith("stop.seconds=10")


# What is best


def test_the_best_follows_the_environment():
    order = scores.ranking((("cost", "min"), ("win_rate", "max")), ("return", "cost", "win_rate"))
    kept = best.BestParameters(3, order)
    kept.update({"cost": np.array([5.0, 5, 5]), "win_rate": np.array([0.5] * 3)}, {"x": np.zeros(3)})
    kept.update({"cost": np.array([4.0, 6, 5]), "win_rate": np.array([0, 1, 0.6])}, {"x": np.ones(3)})
    np.testing.assert_array_equal(kept.parameters["x"], [1, 0, 1])
    assert scores.ranking((("win_rate", "max"),), ("length", "return")) == [("return", 1)]


def test_the_default_objective_follows_the_environment():
    cost = spec(best_metrics=(("cost", "min"),))
    assert scores.Objective().resolve([spec()])[::2] == ("eval/win_rate", True)
    assert scores.Objective().resolve([cost, cost])[::2] == ("eval/cost", False)
    assert scores.Objective("eval/return").resolve([cost]).metric == "eval/return"
    with pytest.raises(config.ConfigError, match="by cost, win_rate, some maximised and some min"):
        scores.Objective().resolve([cost, spec()])
