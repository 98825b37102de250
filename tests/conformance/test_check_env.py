"""`check_env` reports every fault of a toy environment in one line, with a fix."""

import itertools
import json
import re

import jax
import pytest
from toys import counting, forms

import qmix_jax
from qmix_jax import config
from qmix_jax.cli import main
from qmix_jax.conformance import build

# fault -> pattern of the line that reports it
FAULTS = {
    "no Env": r"make: got dict; expected an envs.base.Env; return .*team_env\(spec, reset, step\)",
    "make raises": r"make \(broken.py:\d+\): got KeyError",
    "duplicate agent names": "spec.agent_names: .* expected one or more unique names",
    "a missing entry": r"spec.obs_shapes: got .*; expected a tuple with one entry for each of 2",
    "actions of a third agent": r"spec.actions.sizes: got \(3, 2, 2\); .* entry for each of 2",
    "no actions": r"spec.actions.sizes\[1\]: got 0; expected an integer >= 1",
    "reversed box bounds": r"spec.actions: got low 1.0 and high -1.0; .* low < high",
    "groups of unequal size": r"spec.agent_groups\[1\]: .* equal sizes within a group",
    "no limit": "spec.max_steps: got 0; expected an integer >= 1",
    "padding too small": r"spec.obs_shapes\[0\]: .* no more than spec.obs_shape \(1,\)",
    "columns past the state": r"spec.agent_state: got columns 0 to 9; expected columns 0 to 1",
    "columns of the wrong dtype": "spec.agent_state: got ndarray int64 .* numpy int32",
    "reversed bounds": r"spec.obs_bounds: got \(1.0, 0.0\)",
    "bounds too narrow": r"TimeStep.obs: got values from 0 to 4; expected spec.obs_bounds",
    "a reserved metric": "spec.metric_names: got 'return'",
    "a missing metric": r"reset: TimeStep.metrics: got \['distance'\]; expected .*'speed'",
    "a wrong state size": r"reset: TimeStep.state: got shape \(2,\); expected \(4,\)",
    "an unknown best metric": r"best_metrics\[0\]: got 'speed'; expected one of return, .*distance",
    "a best metric without a direction": r"got \('distance', 'most'\); expected \(metric, .max",
    "an unknown scored agent": r"spec.scored_agents: got \(0, 2\); .* from 0 to 1",
    "no scored agents": r"spec.scored_agents: got \(\); .* or None for all",
    "a missing observation block": "spec.obs_blocks: got widths that sum to 1; .* list every block",
    "a duplicate observation block": "spec.obs_blocks: .* unique names",
    "neighbours of three": r"spec.neighbours: got bool \(3, 3\); expected numpy bool \(2, 2\)",
    "states of two numbers": r"spec.obs_shape: got \(2,\); expected \(1,\)",
    "a zero-sum team": "spec.zero_sum: got 2 agents and a team reward; .* set team_reward=None",
    "a team reward that does not reduce": r"team_reward: got shape \(2,\) from .* shape \(2,\)",
    "a team reward that reduces the batch": r"team_reward: got shape \(\) from .* \(3, 2\); .*last",
    "a random spec": "spec.max_steps: .* expected equal values from equal options",
    "a Python if": r"step \(broken.py:\d+\): got TracerBoolConversionError: .* use jnp.where",
    "numpy in the step": r"step \(broken.py:\d+\): got TracerArrayConversionError: .*jax.numpy",
    "randomness of Python": "step: got different programs from tracing it twice",
    "three results": r"step.*: got ValueError: .* return \(env_state, TimeStep\)",
    "a reward per agent": r"step.*: got ValueError: team_env takes one .* sum it over the agents",
    "one reward for two agents": r"TimeStep.reward: got shape \(\); expected \(2,\); .*team_env",
    "alive in step only": "step: TimeStep.alive: got a new field; expected the same fields",
    "alive as a count": r"reset: TimeStep.alive: got shape \(\); expected \(2,\)",
    "neighbours as floats": "reset: TimeStep.neighbours: got float32; expected bool",
    "integer observations": r"step: TimeStep.obs: got int32; expected float32",
    "a new field in the state": r"step: env_state\['more'\]: got a new field; expected the same",
    "a flag that becomes a number": r"env_state\['flag'\]: got int32 \(\); expected bool \(\)",
    "a weak type": r"reset: env_state\['step'\]: got a weakly typed int32",
    "a callback": "step: got debug_\\w+; expected no call",
    "a leak": r"no side effects.*: got .*[Ll]eaked",
    "a reward at reset": "reset: TimeStep.reward: got 1.0; expected 0",
    "not a number": "step: TimeStep.obs: got (nan|inf) in .* expected finite values",
    "no action": "step: TimeStep.avail_actions: got no available action for agent 'a' .*a no-op",
    "no action at the end": "available action for agent 'a' .*all at the end of an episode",
    "an available action that is padding": "avail_actions of 'b': got actions 2 or higher",
    "both ends": "terminated and truncated: got both",
    "no end": "TimeStep.truncated: got an episode that continues after 6 steps",
    "an auto-reset": "step: got a freshly reset env state at the end of every episode",
}
PLAYED = {
    "bounds too narrow", "a reward at reset", "not a number", "no action", "no action at the end",
    "an available action that is padding", "both ends", "no end", "an auto-reset",
}  # fmt: skip
"""Faults that only random play detects; the other checks are quick."""


def test_a_correct_environment_passes():
    result = qmix_jax.check_env("toys.broken")
    assert result.passed and not result.failures()
    assert {check.status for check in result.results} == {"passed"}
    assert len(result.results) > 25


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_reported_in_one_line(fault, monkeypatch):
    if fault not in PLAYED:
        monkeypatch.setattr(build, "_STAGES", build._STAGES[:-1])
    if fault == "a leak":
        jax.clear_caches()  # otherwise JAX searches all of them for references to the tracer
    result = qmix_jax.check_env("toys.broken", {"fault": fault}, episodes=4)
    assert not result.passed
    lines = result.failures()
    assert all("\n" not in line for line in lines)
    assert [line for line in lines if re.search(FAULTS[fault], line)], lines


@pytest.fixture(params=["compiled", "on the host"])
def check_form(request):
    """`(form, fault) -> Conformance`, of a compiled environment and of one stepped in Python."""

    def check(name, fault="none"):
        env = forms.make(forms.Config(form=name, fault=fault))
        env = env if request.param == "compiled" else forms.stepped_in_python(env)
        return qmix_jax.check_env(env, episodes=2, skip=("compiled equals eager",))

    return check


@pytest.mark.parametrize("name", forms.FORMS)
def test_every_form_passes(check_form, name):
    result = check_form(name)
    assert result.passed, result.failures()
    noted = {check.name for check in result.results if check.status == "noted"}
    all_algorithms_fit = name == "tabular"
    assert ("algorithms that fit" in noted) != all_algorithms_fit
    assert len(result.results) > 25


def test_algorithms_that_cannot_learn_are_listed_with_the_reason(check_form):
    for name, reason in (
        ("competing", "it learns from one team reward, and the agents of competing compete"),
        ("continuous", "it needs discrete actions, and those of continuous are box"),
    ):
        (check,) = [
            check for check in check_form(name).results if check.name == "algorithms that fit"
        ]
        (line,) = [finding.line() for finding in check.findings]
        assert line.startswith("algorithms: iql, pqn, qtran, td, wqmix cannot train here (")
        assert reason in line and line.endswith("algorithms that can: none")


@pytest.mark.parametrize(
    ("name", "fault", "message"),
    [
        ("competing", "rewards of nonzero sum", "TimeStep.reward: got .* sum to zero"),
        ("tabular", "an index too large", "step: TimeStep.obs: got 5; expected .* from 0 to 4"),
        ("tabular", "a fractional index", r"reset: TimeStep.obs: got \d.5; expected a state index"),
        ("continuous", "a masked box", "avail_actions of 'a': got an unavailable dimension"),
    ],
)
def test_faults_of_other_forms_are_reported(check_form, name, fault, message):
    result = check_form(name, fault)
    assert [line for line in result.failures() if re.search(message, line)], result.failures()


def test_an_agent_that_neighbours_itself_is_noted(check_form):
    result = check_form("crowd", "its own neighbour")
    (check,) = [check for check in result.results if check.name == "no agent is its own neighbour"]
    assert result.passed and check.status == "noted"


def test_a_host_episode_that_ignores_its_seed_fails():
    env = forms.stepped_in_python(forms.make(forms.Config(form="tabular")))
    seeds = itertools.count()

    def start():
        episodes = env.start()
        return episodes._replace(reset=lambda seed: episodes.reset(next(seeds)))

    (line,) = qmix_jax.check_env(env._replace(start=start)).failures()
    assert "reset(seed): got two different episodes from the same seed" in line


def test_an_exception_on_the_host_is_reported():
    env = forms.stepped_in_python(forms.make(forms.Config(form="tabular")))

    def start():
        return env.start()._replace(step=lambda actions: {}["x"])

    result = qmix_jax.check_env(env._replace(start=start))
    assert result.failures() == (
        "start, reset or step: got KeyError: 'x'; expected no exception; "
        "correct the code that raises it",
    )


def test_a_note_does_not_fail():
    result = qmix_jax.check_env("toys.broken", {"fault": "no rewards"}, episodes=4)
    (check,) = [check for check in result.results if check.status == "noted"]
    assert result.passed
    assert check.name == "random play earns rewards"


def test_other_checks_run_after_a_failure():
    """Checks that depend on the failed one are reported as not run."""
    result = qmix_jax.check_env("toys.broken", {"fault": "one reward for two agents"})
    status = {check.name: check.status for check in result.results}
    assert status["TimeStep: shapes"] == "failed"
    assert status["TimeStep: dtypes"] == status["no side effects"] == "passed"
    assert status["values are finite"] == "not run"


def test_an_env_can_be_passed():
    assert qmix_jax.check_env(counting.make(counting.Config())).passed
    with pytest.raises(config.ConfigError, match="an Env has its options"):
        qmix_jax.check_env(counting.make(counting.Config()), {"limit": 3})


def test_the_command_takes_options_and_sets_its_exit_code(capsys):
    assert main.main(["check-env", "toys.counting", "limit=4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["env"], report["passed"]) == ("counting", True)
    assert main.main(["check-env", "toys.broken", "fault=no end"]) == 1
    output = capsys.readouterr().out
    assert "error: step: TimeStep.truncated: got an episode that continues after 6" in output
    assert "broken violates the contract" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one"),
        (["a.b", "c.d"], "got 2 names"),
        (["toys.nowhere"], "no module 'toys.nowhere' can be imported"),
        (["smaxx"], "did you mean|allowed: jaxmarl"),
        (["toys.counting", "limt=4"], "unknown key 'env.options.limt'; did you mean 'limit'"),
        (["toys.counting", "limit=[1"], r"'limit=\[1': no viable alternative"),
        (["toys.counting", "--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(arguments, message, capsys):
    assert main.main(["check-env", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_modules_that_are_not_environments_fail(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "user_envs").mkdir()
    (tmp_path / "user_envs" / "bare.py").write_text("Config = 1\n")
    (tmp_path / "user_envs" / "untyped.py").write_text("Config = dict\ndef make(cfg): ...\n")
    (tmp_path / "user_envs" / "typo.py").write_text("import numpy\nnumpy.zeroes(3)\n")
    for name, message in (
        ("bare", "has no make; expected Config and make"),
        ("untyped", "expected a subclass of qmix_jax.config.Model"),
        ("typo", "import.*: got AttributeError"),
    ):
        result = qmix_jax.check_env(f"user_envs.{name}")
        assert not result.passed
        assert re.search(message, result.failures()[0]), result.failures()
        assert {check.status for check in result.results[1:]} == {"not run"}
