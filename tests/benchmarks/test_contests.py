"""Comparison and race: settings of our run, equal work, and reports."""

import json
import math

import pytest

from benchmarks import compare, contest, race
from benchmarks.peers import base
from qmix_jax import config, program
from qmix_jax.cli import composition


def outcome(peer, gradient_steps=100, speed=1000.0, **changes):
    """A finished run of 10,000 env steps."""
    values = {
        "peer": peer,
        "version": "1",
        "settings": {},
        "env_steps": 10_000,
        "gradient_steps": gradient_steps,
        "learning_free_env_steps": 0,
        "compile_seconds": 5.0,
        "run_seconds": 10.0,
        "env_steps_per_s": speed,
    }
    return base.Outcome(**{**values, **changes})


def point(env_steps, seconds, *wins):
    return base.Point(env_steps, seconds, returns=tuple(20 * w for w in wins), win_rates=wins)


@pytest.fixture
def entrants(monkeypatch):
    """qmix_jax and one peer with outcomes set by a test; records every call."""
    outcomes = {"qmix_jax": outcome("qmix_jax", speed=3000.0), "jaxmarl": outcome("jaxmarl")}
    calls = []

    def entrant(name):
        def enter(work, timeout):
            calls.append((name, work, timeout))
            return outcomes[name]

        return enter

    monkeypatch.setattr(contest, "ours", lambda extra: entrant("qmix_jax"))
    monkeypatch.setattr(contest, "peers", lambda options: {"jaxmarl": entrant("jaxmarl")})
    return outcomes, calls


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_seconds_to_a_win_rate_count_compilation_and_the_mean_over_seeds():
    curve = (point(1, 3.0, 0.9, 0.5), point(2, 7.0, 0.8, 0.8), point(3, 9.0, 1.0, 1.0))
    run = outcome("x", curve=curve)
    assert contest.seconds_to(run, 0.7) == 5.0 + 3.0
    assert contest.seconds_to(run, 0.8) == 5.0 + 7.0
    assert contest.seconds_to(outcome("x"), 0.8) is None
    assert contest.seconds_to(outcome("x", curve=curve[:1]), 0.8) is None


def test_means_skip_seeds_without_an_episode():
    assert contest.mean((None, 0.5, 1.0)) == 0.75
    assert math.isnan(contest.mean((None,))) and math.isnan(contest.mean(None))


def test_comparison_alternates_and_reports_the_ratio_of_medians(entrants, tmp_path, capsys):
    _, calls = entrants
    out = tmp_path / "lines"
    code = compare.main(["mpe_spread", "--env-steps", "10000", "--hidden", "16", "--repeats", "2",
                         "--seeds", "3", "--out", str(out)])  # fmt: skip
    assert code == 0
    assert [name for name, _, _ in calls] == ["qmix_jax", "jaxmarl"] * 2
    work = calls[0][1]
    assert (work.env_steps, work.hidden, work.seeds, work.evaluate) == (10_000, 16, 3, False)
    assert all(other == work for _, other, _ in calls)
    ratios = [line["result"]["ours / theirs"] for line in lines(out)]
    assert ratios == [1.0, 3.0]
    assert "entrants alternating" in capsys.readouterr().out


def test_unequal_gradient_steps_are_an_error(entrants, tmp_path, capsys):
    outcomes, _ = entrants
    outcomes["jaxmarl"] = outcome("jaxmarl", gradient_steps=103)
    assert compare.main(["mpe_spread", "--out", str(tmp_path / "lines")]) == 1
    captured = capsys.readouterr()
    assert captured.err == "error: jaxmarl: 103 gradient steps, ours 100: not equal work\n"
    assert lines(tmp_path / "lines")[1]["notes"][-1].startswith("jaxmarl: 103 gradient steps")
    ended = outcome("jaxmarl", gradient_steps=None, limit="> 600 s")
    ours = outcomes["qmix_jax"]
    assert compare.unequal_work({"qmix_jax": ours, "jaxmarl": ended}) == []
    near = outcome("jaxmarl", gradient_steps=102)
    assert compare.unequal_work({"qmix_jax": ours, "jaxmarl": near}) == []


def test_evaluation_adds_the_curves_of_both_sides(entrants, tmp_path):
    outcomes, calls = entrants
    for name in outcomes:
        outcomes[name] = outcome(name, curve=(point(5_000, 1.0, 0.25, 0.75),))
    out = tmp_path / "lines"
    assert compare.main(["smax_2s3z", "--evaluate", "--repeats", "1", "--out", str(out)]) == 0
    assert all(work.evaluate for _, work, _ in calls)
    curves = [line["result"] for line in lines(out) if line["benchmark"] == "compare: curves"]
    assert [(row["case"], row["return"], row["win rate"]) for row in curves] == [
        ("qmix_jax", 10.0, 0.5),
        ("jaxmarl", 10.0, 0.5),
    ]


def test_race_runs_the_shipped_settings_and_each_of_yours(entrants, tmp_path, capsys):
    outcomes, calls = entrants
    outcomes["qmix_jax"] = outcome("qmix_jax", curve=(point(1, 2.0, 0.7), point(2, 4.0, 0.9)))
    out = tmp_path / "lines"
    tries = ["--try", "learning_rate=1e-3,gradient_steps=32"]
    code = race.main(["smax_3m", "--seeds", "3", "--env-steps", "9000", "--timeout", "77",
                      *tries, "--out", str(out)])  # fmt: skip
    assert code == 0
    assert [name for name, _, _ in calls] == ["qmix_jax", "jaxmarl", "jaxmarl"]
    ours, shipped, tried = (work for _, work, _ in calls)
    assert ours.shipped and shipped.shipped and not tried.shipped
    assert (tried.learning_rate, tried.gradient_steps, tried.evaluate) == (1e-3, 32, True)
    assert {(work.seed, work.seeds, work.env_steps) for _, work, _ in calls} == {(100, 3, 9000)}
    assert {timeout for _, _, timeout in calls} == {77.0}
    seconds = [line["result"]["seconds to target"] for line in lines(out)]
    assert seconds == ["9", "> 15", "> 15"]


def test_a_race_that_reaches_the_limit_reports_more_than_the_limit(entrants, tmp_path):
    outcomes, calls = entrants
    outcomes["jaxmarl"] = outcome("jaxmarl", run_seconds=None, limit="> 50 s")
    out = tmp_path / "lines"
    arguments = ["--no-ours", "--no-shipped", "--try", "n_envs=4", "--timeout", "50"]
    assert race.main(["smax_3m", *arguments, "--out", str(out)]) == 0
    assert [line["result"]["seconds to target"] for line in lines(out)] == ["> 50"]
    assert [work.n_envs for _, work, _ in calls] == [4], "no other entrant runs"


@pytest.mark.parametrize("module", [compare, race])
def test_a_missing_interpreter_is_a_one_line_error_with_exit_code_2(
    module, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(contest, "ours", lambda extra: lambda work, timeout: outcome("qmix_jax"))
    arguments = ["smax_2s3z", "--xuance", str(tmp_path / "python"), "--out", str(tmp_path / "x")]
    assert module.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: xuance: ") and error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("case", compare.CASES)
def test_equal_work_agrees_with_the_loaded_configuration(case):
    work = contest.learning_with_jaxmarl(compare.CASES[case])
    cfg = config.load(composition.compose(*contest.overrides(work)))
    made = program.build(cfg).plan
    assert made.steps_per_update == work.n_envs * work.rollout_steps
    assert made.gradient_steps == work.gradient_steps
    assert cfg.replay.batch_size == work.batch_size
    assert made.warm_up_collects >= work.batch_size, "learning starts where the peer's does"
    assert made.capacity <= work.capacity
    assert cfg.hparams.gamma == work.gamma and cfg.hparams.td_lambda == 0


def test_shipped_work_uses_our_defaults():
    work = base.Work("smax_3m", 123_456, seeds=3, shipped=True, gradient_steps=5, hidden=7)
    cfg = config.load(composition.compose(*contest.overrides(work)))
    default = config.load(composition.compose("experiment=smax_3m"))
    assert (cfg.trainer.env_steps, cfg.seeds) == (123_456, 3)
    assert (cfg.agent, cfg.hparams, cfg.replay) == (default.agent, default.hparams, default.replay)
