"""Sessions step as `train` does; stop rules end runs early, with complete results."""

import json

import numpy as np
import pytest
from toys import members
from toys.comparison import assert_equal, rows

import qmix_jax
from qmix_jax import api, config, population, program
from qmix_jax.runs import checkpoint, scores
from qmix_jax.training import best, launching, loop, stopping

pytestmark = pytest.mark.usefixtures("empty_pictures")

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
"""Ends the run at the first scheduled evaluation: every episode has two steps."""


def load(**more):
    return members.load(**{**SMALL, **more})


@pytest.fixture(autouse=True)
def _short_calls(monkeypatch):
    """Makes each compiled call one update."""
    monkeypatch.setattr(loop, "_CHUNK_SECONDS", 0.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The result of `train`."""
    return api.train(load(), tmp_path_factory.mktemp("trained") / "run")


def test_stepping_equals_train(trained, tmp_path):
    steps = []
    with qmix_jax.start(load(), tmp_path / "run") as session:
        assert (session.config, session.plan) == (load(), trained.plan)
        assert session.directory == tmp_path / "run"
        while session.step():
            steps.append((session.update, session.env_steps, len(session.metrics["seed"])))
    result = session.result()
    assert len(steps) == trained.plan.n_updates + trained.plan.warm_up_collects
    assert steps == sorted(steps) and steps[-1][:2] == (
        trained.plan.n_updates,
        trained.plan.env_steps,
    )
    assert_equal(result.parameters, trained.parameters)
    assert_equal(result.best_parameters, trained.best_parameters)
    assert_equal(session.parameters, trained.parameters)
    assert rows(result.directory) == rows(trained.directory)
    assert (result.interrupted, result.stopped) == (False, None)
    assert not session.step()


def test_evaluate_and_properties_do_not_change_training(trained, tmp_path):
    evaluations = {}
    with qmix_jax.start(load(), tmp_path / "run") as session:
        while session.step():
            evaluations[session.update] = session.evaluate()
            assert session.parameters["agent"]["head"]["kernel"].shape[0] == 2
    result = session.result()
    assert rows(result.directory) == rows(trained.directory)
    assert_equal(result.best_parameters, trained.best_parameters)
    scheduled = trained.metrics["kind"] == "eval"
    for update in np.unique(trained.metrics["update"][scheduled])[1:]:
        at = scheduled & (trained.metrics["update"] == update)
        for name, values in evaluations[int(update)].items():
            np.testing.assert_allclose(values, trained.metrics[name][at], rtol=1e-6)
    assert len(evaluations) > 2 * len(np.unique(trained.metrics["update"][scheduled]))
    with pytest.raises(config.ConfigError, match="nothing is in training"):
        session.evaluate()


@pytest.mark.slow
@pytest.mark.parametrize("end", ["stop", "leave", "error"])
def test_a_session_ended_early_resumes_to_equal_results(end, trained, tmp_path):
    cfg = load(checkpoint={"every_s": 0.0, "replay": "always"})
    try:
        with qmix_jax.start(cfg, tmp_path / "run") as session:
            while session.step():
                if session.update == 20 and end == "stop":
                    session.stop()
                elif session.update == 20 and end == "leave":
                    break
                elif session.update == 20:
                    raise ZeroDivisionError
        assert session.update == 20 and session.result().interrupted
    except ZeroDivisionError:
        assert end == "error"
    again = qmix_jax.resume(tmp_path / "run")
    assert not again.interrupted
    assert_equal(again.parameters, trained.parameters)
    assert_equal(again.best_parameters, trained.best_parameters)
    assert rows(again.directory) == rows(trained.directory)


@pytest.mark.slow
def test_save_makes_a_checkpoint(tmp_path):
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


def test_callbacks_run_after_every_step_and_can_stop(tmp_path):
    updates = []

    def callback(session):
        updates.append(session.update)
        if len(updates) == 15:
            session.stop()

    result = qmix_jax.train(load(), tmp_path / "run", callbacks=[callback])
    assert len(updates) == 15 and result.interrupted
    assert result.metrics["update"].max() == updates[-1]


def test_runs_that_cannot_start_are_refused(trained):
    with pytest.raises(config.ConfigError, match=r"has ended; .* or read it with qmix_jax.load_ru"):
        qmix_jax.start(load(), trained.directory)
    for train in (qmix_jax.start, lambda cfg: qmix_jax.train(cfg, callbacks=[print])):
        with pytest.raises(config.ConfigError, match=r"set population.distributed=false"):
            train(load(population={"distributed": True}))


# Stop rules


@pytest.mark.slow
def test_a_stopped_run_is_complete_and_resumes_without_its_rule(
    trained, tmp_path, capsys, monkeypatch
):
    result = api.train(load(stop=UNCHANGING), tmp_path / "run")
    assert (result.interrupted, result.pruned) == (False, False)
    assert result.stopped == (
        "stop.patience=1: eval/length was never better than 2 for 1 evaluation(s)"
    )
    assert f"ended by {result.stopped}" in capsys.readouterr().out
    plan = trained.plan
    assert result.metrics["update"].max() == plan.eval_every < plan.n_updates
    written = rows(result.directory)
    assert written == rows(trained.directory)[: len(written)]
    manifest = json.loads((result.directory / "manifest.json").read_text())
    assert manifest["reached"]["stopped"] == result.stopped
    assert qmix_jax.load_run(result.directory).stopped == result.stopped
    with monkeypatch.context() as patch:
        patch.setattr(launching, "build", None)
        again = api.train(load(stop=UNCHANGING), tmp_path / "run")
    assert again.stopped == result.stopped
    assert f"has ended, by {result.stopped}; to continue, raise" in capsys.readouterr().out
    longer = qmix_jax.resume(tmp_path / "run", {"stop.patience": None, "stop.metric": None})
    assert longer.stopped is None
    assert_equal(longer.parameters, trained.parameters)
    assert rows(longer.directory) == rows(trained.directory)


@pytest.mark.slow
def test_a_stop_rule_ends_only_its_job_of_a_sweep(trained, tmp_path):
    jobs = [
        api.Job(load(), tmp_path / "a"),
        api.Job(load(seed=3, stop=UNCHANGING), tmp_path / "b", label="b"),
    ]
    first, second = api.train_many(jobs, tmp_path)
    assert_equal(first.parameters, trained.parameters)
    assert rows(first.directory) == rows(trained.directory)
    assert first.stopped is None and second.stopped.startswith("stop.patience=1")
    assert second.metrics["update"].max() == trained.plan.eval_every
    index = json.loads((tmp_path / "index.json").read_text())
    assert len(index["groups"]) == 1, "stop rules do not separate programs"
    assert [job["stopped"] for job in index["jobs"]] == [None, second.stopped]
    assert {job["status"] for job in index["jobs"]} == {"finished"}
    alone = api.train(load(seed=3, stop=UNCHANGING), tmp_path / "alone")
    assert_equal(second.parameters, alone.parameters)
    assert rows(second.directory) == rows(alone.directory)


def test_stop_seconds_ends_a_run_with_an_evaluation(tmp_path):
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
def test_bad_stop_rules_are_refused_before_compiling(message, tmp_path, monkeypatch):
    monkeypatch.setattr(population, "compile_programs", None)
    with pytest.raises(config.ConfigError, match=message):
        api.train(load(stop=BAD_RULES[message]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def spec(**more):
    base = program.environment(load()).spec
    return base.__class__(**{**vars(base), "metric_names": ("cost", "win_rate"), **more})


def verdicts(rules, values, **more):
    stop_rules = stopping.StopRules(config.StopConfig(**rules), spec(**more))
    ended = []
    for value in values:
        stop_rules.update({stop_rules.metric: np.array([value - 1, value + 1])})
        ended.append(stop_rules.verdict(0.0) is not None)
    return stop_rules.metric, ended


def test_stop_rules_by_hand():
    cost = {"best_metrics": (("cost", "min"),)}
    assert verdicts({"at": 5.0}, [1, 4.9, 5, 3]) == ("eval/win_rate", [0, 0, 1, 0])
    assert verdicts({"at": 5.0}, [9, 5.1, 5], **cost) == ("eval/cost", [0, 0, 1])
    assert verdicts({"patience": 2}, [1, 2, 2, 1.5, 9])[1] == [0, 0, 0, 1, 0]
    assert verdicts({"patience": 2}, [9, 8, 8, 8], **cost)[1] == [0, 0, 0, 1]
    assert verdicts({"metric": "eval/length", "at": 3.0}, [2, 3])[1] == [0, 1]
    rules = stopping.StopRules(config.StopConfig(seconds=10.0), spec())
    assert rules.verdict(9.0) is None and rules.verdict(10.0).startswith("stop.seconds=10")


# Best parameters


def test_best_parameters_follow_the_environment():
    ranking = scores.ranking((("cost", "min"), ("win_rate", "max")), ("return", "cost", "win_rate"))
    tracker = best.BestParameters(3, ranking)
    costs, win_rates = np.array([[5.0, 5, 5], [4, 6, 5]]), np.array([[0.5, 0.5, 0.5], [0, 1, 0.6]])
    for i in range(2):
        tracker.update({"cost": costs[i], "win_rate": win_rates[i]}, {"x": np.full(3, i)})
    np.testing.assert_array_equal(tracker.parameters["x"], [1, 0, 1])
    assert scores.ranking((("win_rate", "max"),), ("length", "return")) == [("return", 1)]


def test_the_default_objective_follows_the_environment():
    cost = spec(best_metrics=(("cost", "min"),))
    assert scores.Objective().resolve([spec()])[::2] == ("eval/win_rate", True)
    assert scores.Objective().resolve([cost, cost])[::2] == ("eval/cost", False)
    assert scores.Objective("eval/return").resolve([cost]).metric == "eval/return"
    with pytest.raises(config.ConfigError, match="by cost, win_rate, some maximised and some min"):
        scores.Objective().resolve([cost, spec()])
