"""Every fault of a toy environment is found, and said in one line that helps."""

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

# fault -> what its line must say
FAULTS = {
    "no Env": r"make: got dict; expected an envs.base.Env; return .*team_env\(spec, reset, step\)",
    "make raises": r"make \(broken.py:\d+\): got KeyError",
    "agents of one name": "spec.agent_names: .* every name once",
    "a missing entry": r"spec.obs_shapes: got .*; expected a tuple with an entry for each of 2",
    "actions of a third agent": r"spec.actions.sizes: got \(3, 2, 2\); .* entry for each of 2",
    "no actions": r"spec.actions.sizes\[1\]: got 0; expected a whole number from 1",
    "a box upside down": r"spec.actions: got low 1.0 and high -1.0; .* the lower one first",
    "groups of unequal size": r"spec.agent_groups\[1\]: .* equal sizes within a group",
    "no limit": "spec.max_steps: got 0; expected a whole number from 1",
    "padding too small": r"spec.obs_shapes\[0\]: .* no more than spec.obs_shape \(1,\)",
    "columns past the state": r"spec.agent_state: got columns 0 to 9; expected columns 0 to 1",
    "columns of the wrong type": "spec.agent_state: got ndarray int64 .* numpy int32",
    "bounds upside down": r"spec.obs_bounds: got \(1.0, 0.0\)",
    "bounds too narrow": r"TimeStep.obs: got values from 0 to 4; expected spec.obs_bounds",
    "a reserved metric": "spec.metric_names: got 'return'",
    "a missing metric": r"reset: TimeStep.metrics: got \['distance'\]; expected .*'speed'",
    "a wrong state size": r"reset: TimeStep.state: got shape \(2,\); expected \(4,\)",
    "an unknown best metric": r"best_metrics\[0\]: got 'speed'; expected one of return, .*distance",
    "a best metric without a direction": r"got \('distance', 'most'\); expected \(metric, .max",
    "a scored agent that is not there": r"spec.scored_agents: got \(0, 2\); .* from 0 to 1",
    "nobody is scored": r"spec.scored_agents: got \(\); .* or None for all",
    "a part that is not named": "spec.obs_blocks: got widths that add up to 1; .* name every part",
    "a part named twice": "spec.obs_blocks: .* every name once",
    "neighbours of three": r"spec.neighbours: got bool \(3, 3\); expected numpy bool \(2, 2\)",
    "states of two numbers": r"spec.obs_shape: got \(2,\); expected \(1,\)",
    "a sum of a team": "spec.zero_sum: got 2 agents and a team reward; .* set team_reward=None",
    "a rule for two numbers": r"team_reward: got shape \(2,\) from rewards of shape \(2,\)",
    "a rule for a batch": r"team_reward: got shape \(\) from .* shape \(3, 2\); .*last axis",
    "a random spec": "spec.max_steps: .* the same for the same options",
    "a Python if": r"step \(broken.py:\d+\): got TracerBoolConversionError: .* use jnp.where",
    "numpy in the step": r"step \(broken.py:\d+\): got TracerArrayConversionError: .*jax.numpy",
    "randomness of Python": "step: got two different programs from tracing it twice",
    "three results": r"step.*: got ValueError: .* return \(env_state, TimeStep\)",
    "a reward per agent": r"step.*: got ValueError: team_env takes one .* sum it over the agents",
    "a team reward for each agent": r"TimeStep.reward: got shape \(\); expected \(2,\); .*team_env",
    "a death after the start": "step: TimeStep.alive: got new; expected the same fields as reset",
    "a number of the living": r"reset: TimeStep.alive: got shape \(\); expected \(2,\)",
    "neighbours as numbers": "reset: TimeStep.neighbours: got float32; expected bool",
    "whole numbers as observations": r"step: TimeStep.obs: got int32; expected float32",
    "a new field in the state": r"step: env_state\['more'\]: got new; expected the same fields",
    "a flag that becomes a number": r"env_state\['flag'\]: got int32 \(\); expected bool \(\)",
    "a weak type": r"reset: env_state\['step'\]: got a weakly typed int32",
    "a callback": "step: got debug_\\w+; expected no call",
    "a leak": r"no side effects.*: got .*[Ll]eaked",
    "a reward at reset": "reset: TimeStep.reward: got 1.0; expected 0",
    "not a number": "step: TimeStep.obs: got (nan|inf) at .*finite numbers",
    "no action": "step: TimeStep.avail_actions: got no action for agent 'a' .*a no-op",
    "no action at the end": "no action for agent 'a' .*all at the end of an episode",
    "an action that does not exist": "TimeStep.avail_actions of 'b': got an action from 2 on",
    "both ends": "terminated and truncated: got both",
    "no end": "TimeStep.truncated: got an episode that goes on after 6 steps",
    "an auto-reset of its own": "step: got an env state as after reset at the end of every episode",
}
PLAYED = {
    "bounds too narrow", "a reward at reset", "not a number", "no action", "no action at the end",
    "an action that does not exist", "both ends", "no end", "an auto-reset of its own",
}  # fmt: skip
"""Faults that only show when the environment runs; the others are found without, and quickly."""


def test_a_sound_environment_passes():
    found = qmix_jax.check_env("toys.broken")
    assert found.passed and not found.failures()
    assert {answer.status for answer in found.answers} == {"passed"}
    assert len(found.answers) > 25


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_explained(fault, monkeypatch):
    if fault not in PLAYED:
        monkeypatch.setattr(build, "_STAGES", build._STAGES[:-1])
    if fault == "a leak":
        jax.clear_caches()  # else JAX searches them all for references to the leaked tracer
    found = qmix_jax.check_env("toys.broken", {"fault": fault}, episodes=4)
    assert not found.passed
    lines = found.failures()
    assert all("\n" not in line for line in lines)
    assert [line for line in lines if re.search(FAULTS[fault], line)], lines


@pytest.fixture(params=["compiled", "in Python"])
def form(request):
    """`(form, fault) -> what check_env says of it`, of an environment in JAX and in Python."""

    def check(name, fault="none"):
        env = forms.make(forms.Config(form=name, fault=fault))
        env = env if request.param == "compiled" else forms.stepped_in_python(env)
        return qmix_jax.check_env(env, episodes=2, skip=("compiled as not compiled",))

    return check


@pytest.mark.parametrize("name", forms.FORMS)
def test_every_form_passes(form, name):
    found = form(name)
    assert found.passed, found.failures()
    noted = {answer.name for answer in found.answers if answer.status == "noted"}
    everyone = name == "tabular"
    assert ("algorithms that fit" in noted) != everyone
    assert len(found.answers) > 25


def test_what_cannot_be_learnt_from_is_said_with_its_reason(form):
    for name, reason in (
        ("competing", "it learns from one team reward, and the agents of competing compete"),
        ("continuous", "it needs discrete actions, and those of continuous are box"),
    ):
        (answer,) = [one for one in form(name).answers if one.name == "algorithms that fit"]
        (said,) = [finding.line() for finding in answer.findings]
        assert said.startswith("algorithms: iql, pqn, qtran, td, wqmix cannot be trained here (")
        assert reason in said and said.endswith("algo.algorithm that fits: none")


@pytest.mark.parametrize(
    ("name", "fault", "message"),
    [
        ("competing", "rewards that do not add up", "TimeStep.reward: got .* up to zero"),
        ("tabular", "a place too many", "step: TimeStep.obs: got 5; expected .* from 0 to 4"),
        (
            "tabular",
            "half a place",
            r"reset: TimeStep.obs: got \d.5; expected the index of a state",
        ),
        ("continuous", "a masked box", "avail_actions of 'a': got a number .* not available"),
    ],
)
def test_faults_of_the_other_forms_are_explained(form, name, fault, message):
    found = form(name, fault)
    assert [line for line in found.failures() if re.search(message, line)], found.failures()


def test_an_agent_near_itself_is_a_remark(form):
    found = form("crowd", "its own neighbour")
    (noted,) = [one for one in found.answers if one.name == "nobody is near itself"]
    assert found.passed and noted.status == "noted"


def test_an_episode_in_python_depends_on_its_seed():
    env = forms.stepped_in_python(forms.make(forms.Config(form="tabular")))
    seeds = itertools.count()

    def start():
        episodes = env.start()
        return episodes._replace(reset=lambda seed: episodes.reset(next(seeds)))

    (line,) = qmix_jax.check_env(env._replace(start=start)).failures()
    assert "reset(seed): got two different episodes from one seed" in line


def test_an_exception_in_python_is_a_finding():
    env = forms.stepped_in_python(forms.make(forms.Config(form="tabular")))

    def start():
        return env.start()._replace(step=lambda actions: {}["x"])

    found = qmix_jax.check_env(env._replace(start=start))
    assert found.failures() == (
        "start, reset or step: got KeyError: 'x'; expected no exception; correct what raises it",
    )


def test_a_doubt_is_no_failure():
    found = qmix_jax.check_env("toys.broken", {"fault": "no rewards"}, episodes=4)
    (noted,) = [answer for answer in found.answers if answer.status == "noted"]
    assert found.passed
    assert noted.name == "random play meets rewards"


def test_one_fault_does_not_hide_the_others():
    """What cannot be asked any more is said to be so."""
    found = qmix_jax.check_env("toys.broken", {"fault": "a team reward for each agent"})
    status = {answer.name: answer.status for answer in found.answers}
    assert status["TimeStep: shapes"] == "failed"
    assert status["TimeStep: types"] == status["no side effects"] == "passed"
    assert status["values are finite"] == "not run"


def test_a_bundle_can_be_checked_too():
    assert qmix_jax.check_env(counting.make(counting.Config())).passed
    with pytest.raises(config.ConfigError, match="an Env has its options"):
        qmix_jax.check_env(counting.make(counting.Config()), {"limit": 3})


def test_the_command_takes_options_and_tells_by_its_exit_code(capsys):
    assert main.main(["check-env", "toys.counting", "limit=4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["env"], found["passed"]) == ("counting", True)
    assert main.main(["check-env", "toys.broken", "fault=no end"]) == 1
    shown = capsys.readouterr().out
    assert "error: step: TimeStep.truncated: got an episode that goes on after 6 steps" in shown
    assert "broken breaks the contract" in shown


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
def test_misuse_is_explained(arguments, message, capsys):
    assert main.main(["check-env", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)


def test_modules_that_are_no_environments(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_envs").mkdir()
    (tmp_path / "own_envs" / "bare.py").write_text("Config = 1\n")
    (tmp_path / "own_envs" / "untyped.py").write_text("Config = dict\ndef make(cfg): ...\n")
    (tmp_path / "own_envs" / "typo.py").write_text("import numpy\nnumpy.zeroes(3)\n")
    for name, message in (
        ("bare", "has no make; expected Config and make"),
        ("untyped", "expected a subclass of qmix_jax.config.Model"),
        ("typo", "import.*: got AttributeError"),
    ):
        found = qmix_jax.check_env(f"own_envs.{name}")
        assert not found.passed
        assert re.search(message, found.failures()[0]), found.failures()
        assert {answer.status for answer in found.answers[1:]} == {"not run"}
