"""Errors of the JaxMARL adapter, and loading and dumping of its options."""

import json
import pathlib
import subprocess
import sys

import pytest

from qmix_jax import config
from qmix_jax.envs import jaxmarl
from qmix_jax.envs.jaxmarl import adapter

SMAX = "HeuristicEnemySMAX"


def test_every_registered_environment_is_supported_or_refused():
    registered = adapter.quiet_import("jaxmarl").registered_envs
    assert set(jaxmarl.SUPPORTED) | set(jaxmarl.REFUSED) == set(registered)
    assert not set(jaxmarl.SUPPORTED) & set(jaxmarl.REFUSED)


@pytest.mark.parametrize("id_", jaxmarl.REFUSED)
def test_refusals_state_their_reason(id_):
    with pytest.raises(config.ConfigError) as info:
        jaxmarl.make(jaxmarl.Config(id=id_))
    assert "\n" not in str(info.value)
    assert f"id={id_!r} is refused: {jaxmarl.REFUSED[id_]}; supported: {SMAX}" in str(info.value)


@pytest.mark.parametrize(
    ("id_", "reason"),
    [
        ("MPE_simple_tag_v3", "agents compete"),
        ("storm_2p", "social dilemma"),
        ("SMAX", "use HeuristicEnemySMAX"),
        ("LearnedPolicyEnemySMAX", "use HeuristicEnemySMAX"),
        ("ant_4x2", "continuous"),
        ("MPE_simple_facmac_3a_v1", "continuous"),
        ("JaxRobotarium_rware", "jaxrobotarium"),
    ],
)
def test_the_reason_fits_the_environment(id_, reason):
    with pytest.raises(config.ConfigError, match=reason):
        jaxmarl.make(jaxmarl.Config(id=id_))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id": "MPE_simple_spred_v3"}, "is unknown; did you mean 'MPE_simple_spread_v3'"),
        ({"scenario": "2s3y"}, "scenario='2s3y' is unknown; did you mean '2s3z'.*27m_vs_30m"),
        ({}, "needs a scenario, or units in both allies.*scenarios: 3m, 2s3z"),
        ({"allies": {"marine": 3}}, "needs a scenario, or units in both"),
        ({"allies": {"marine": 3}, "enemies": {}}, "needs a scenario, or units in both"),
        ({"scenario": "3m", "allies": {"marine": 3}}, "both set; set scenario to null"),
        ({"id": "switch_riddle", "scenario": "3m"}, "scenario='3m' applies to Heuristic.* only"),
        ({"id": "MPE_simple_v3", "allies": {"marine": 1}}, "allies=.* applies to Heuristic.* only"),
        (
            {"id": "MPE_simple_spread_v3", "kwargs": {"action_type": "Continuous"}},
            "kwargs.action_type='Continuous' of MPE_simple_spread_v3: input should be 'Discrete'",
        ),
        (
            {"scenario": "3m", "kwargs": {"action_type": "continuous"}},
            "kwargs.action_type='continuous' of .*: input should be 'discrete'",
        ),
        (
            {"id": "MPE_simple_spread_v3", "kwargs": {"local_ration": 0.5}},
            "kwargs.local_ration is not an argument.*did you mean 'local_ratio'.*damping",
        ),
        (
            {"id": "MPE_simple_speaker_listener_v4", "kwargs": {"local_ratio": 0.5}},
            "kwargs.local_ratio is not an argument",
        ),
        ({"id": "switch_riddle", "kwargs": {"num_agents": 2}}, "kwargs.num_agents=2.*equal to 3"),
        ({"scenario": "3m", "kwargs": {"max_steps": 0}}, "kwargs.max_steps=0 .*greater than 0"),
        ({"scenario": "3m", "kwargs": {"attack_mode": "near"}}, "kwargs.attack_mode='near'"),
        (
            {"id": "overcooked", "kwargs": {"layout": "cramped_rom"}},
            "kwargs.layout='cramped_rom' of overcooked is unknown; did you mean 'cramped_room'",
        ),
        (
            {"id": "overcooked_v2", "kwargs": {"layout": "kitchen"}},
            "kwargs.layout='kitchen' of overcooked_v2 is unknown; .*allowed: .*grounded_coord_ring",
        ),
        (
            {"id": "overcooked", "kwargs": {"agent_view_size": 2}},
            "kwargs.agent_view_size is not an argument of overcooked",
        ),
        ({"id": "hanabi", "kwargs": {"num_agents": 6}}, "kwargs.num_agents=6 .*equal to 5"),
        (
            {"id": "hanabi", "kwargs": {"num_colors": 1}},
            "deals 2 hands of 5 from 10 cards and has none left to draw",
        ),
        (
            {"id": "jaxnav", "kwargs": {"act_type": "Continuous"}},
            "kwargs.act_type='Continuous' of jaxnav: input should be 'Discrete'",
        ),
        (
            {"id": "coin_game", "kwargs": {"shared_rewards": False}},
            "kwargs.shared_rewards is not an argument of coin_game",
        ),
    ],
)
def test_errors_state_place_and_allowed_values(options, message):
    with pytest.raises(config.ConfigError, match=message) as info:
        jaxmarl.make(jaxmarl.Config.model_validate(options))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allies": {"marin": 3}}, "options.allies.*'marine'"),
        ({"enemies": {"marine": 0}}, "options.enemies.*greater than 0"),
        ({"kwargs": {"max_steps": [1]}}, "options.kwargs"),
        ({"scenarios": "3m"}, "did you mean 'scenario'"),
    ],
)
def test_mistyped_options_are_refused_on_loading(options, message):
    with pytest.raises(config.ConfigError, match=message):
        config.load({"env": {"name": "jaxmarl", "options": options}})


def test_errors_of_jaxmarl_become_one_line():
    with pytest.raises(config.ConfigError, match=r"does not accept kwargs=.*minimum number"):
        adapter.construct("switch_riddle", {"num_agents": 1})


def test_mappings_survive_a_round_trip_and_can_be_hashed():
    options = {
        "id": SMAX,
        "allies": {"zealot": 2, "marine": 1},
        "enemies": {"marine": 4},
        "kwargs": {"max_steps": 50, "enemy_shoots": False, "won_battle_bonus": 0.5},
    }
    loaded = config.load({"env": {"name": "jaxmarl", "options": options}})
    dumped = json.loads(json.dumps(config.dump(loaded)))
    assert dumped["env"]["options"]["allies"] == {"zealot": 2, "marine": 1}
    assert list(dumped["env"]["options"]["allies"]) == ["zealot", "marine"]
    assert dumped["env"]["options"]["kwargs"] == options["kwargs"]
    assert config.load(dumped) == loaded
    assert hash(config.load(dumped)) == hash(loaded)


@pytest.mark.slow
def test_jaxmarl_is_imported_late_and_silently():
    code = (
        "import sys; from qmix_jax.envs import jaxmarl as adapter; "
        "assert 'jaxmarl' not in sys.modules; out, err = sys.stdout, sys.stderr; "
        "adapter.make(adapter.Config(id='switch_riddle')); assert 'jaxmarl' in sys.modules; "
        "assert (sys.stdout, sys.stderr, sys.__stdout__) == (out, err, out)"
    )
    root = pathlib.Path(__file__).parents[2]
    process = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (0, ""), process.stderr
