"""The contract of environments, over all built-in ones."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

import qmix_jax
from qmix_jax import components
from qmix_jax.conformance import simulated

SLOW = ("compiled equals eager",)
PLAYED = tuple(check.name for check in simulated.CHECKS)
HOSTED = {"pettingzoo"}
"""Stepped in Python; tested separately."""
QUICK = ("matrix_2x4", "two_step", "mmdp", "simple", "switch_riddle")
"""Environments that compile fast enough to be played twice."""
FAST = (*QUICK, "matrix", "matrix_three_agents", "switch_riddle_5", "predator_prey")
"""Environments whose full episodes are a fast test."""


def _jaxmarl(id_, **options):
    return ("jaxmarl", {"id": id_, **options})


SMALL_HANABI = {"num_colors": 2, "num_ranks": 2, "hand_size": 1, "max_info_tokens": 2}


def hint_or_discard(key, timestep):
    """The longest game of Hanabi: hints while there are tokens, then discards; never plays."""
    order = jnp.array([1, 0, 2, 2, 2, 2, 3])  # discard, play, hints, no-op
    return jnp.argmax(jnp.where(timestep.avail_actions, order, -1), axis=1).astype(jnp.int32)


# (component, options), idle action or policy, which reaches the longest episode
CASES = {
    "matrix": (("matrix", {}), 0),
    "matrix_2x4": (("matrix", {"game": None, "payoff": ((1, 2, 3, 4), (5, 6, 7, 8))}), 0),
    "matrix_three_agents": (("matrix", {"game": None, "payoff": (((1, 2), (3, 4)),) * 3}), 0),
    "two_step": (("two_step", {}), 0),
    "smax": (
        _jaxmarl("HeuristicEnemySMAX", scenario="3m", kwargs={"enemy_shoots": False}),
        4,
    ),
    "simple": (_jaxmarl("MPE_simple_v3"), 0),
    "spread": (_jaxmarl("MPE_simple_spread_v3"), 0),
    "spread_short": (_jaxmarl("MPE_simple_spread_v3", kwargs={"max_steps": 7, "num_agents": 2}), 0),
    "speaker_listener": (_jaxmarl("MPE_simple_speaker_listener_v4"), 0),
    "reference": (_jaxmarl("MPE_simple_reference_v3"), 0),
    "switch_riddle": (_jaxmarl("switch_riddle"), 0),
    "switch_riddle_5": (_jaxmarl("switch_riddle", kwargs={"num_agents": 5}), 0),
    "overcooked": (_jaxmarl("overcooked", kwargs={"max_steps": 9, "random_reset": True}), 4),
    "overcooked_v2": (
        _jaxmarl(
            "overcooked_v2",
            kwargs={"layout": "grounded_coord_simple", "max_steps": 9, "agent_view_size": 2},
        ),
        4,
    ),
    "hanabi": (_jaxmarl("hanabi", kwargs=SMALL_HANABI), hint_or_discard),
    "coin_game": (_jaxmarl("coin_game", kwargs={"num_inner_steps": 3, "num_outer_steps": 2}), 4),
    "jaxnav": (
        _jaxmarl("jaxnav", kwargs={"map_size": 5, "max_steps": 9, "lidar_num_beams": 4}),
        2,
    ),
    "predator_prey": (
        ("predator_prey", {"size": 4, "n_agents": 3, "n_prey": 2, "max_steps": 9}),
        4,
    ),
    "mmdp": (("mmdp", {"max_steps": 9}), 0),
}


@functools.cache
def make(case):
    (name, options), _ = CASES[case]
    module = components.find("envs", name)
    return module.make(module.Config.model_validate(options))


PLAYED_CASES = [
    pytest.param(case, marks=[] if case in FAST else pytest.mark.slow) for case in CASES
]


@pytest.fixture(scope="module", params=PLAYED_CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def episodes(case, play, random_policy):
    """Four idle episodes, then four random ones, one step past the limit."""
    env, (_, idle) = make(case), CASES[case]

    def idle_policy(key, timestep):
        return jnp.full((env.spec.n_agents,), idle, jnp.int32)

    idle_policy = idle if callable(idle) else idle_policy
    return play(env, (idle_policy, random_policy), n_steps=env.spec.max_steps + 1)


def test_every_environment_is_tested():
    assert {name for (name, _), _ in CASES.values()} == set(components.names("envs")) - HOSTED


@pytest.mark.parametrize("case", CASES)
def test_the_conformance_suite_passes(case):
    """As `qmix-jax check-env`; the tests below play full episodes."""
    (name, options), _ = CASES[case]
    skip = SLOW if case in QUICK else PLAYED
    result = qmix_jax.check_env(name, options, episodes=4, skip=skip)
    assert result.passed, result.failures()
    assert [check.name for check in result.results if check.status == "not run"] == [*skip]


def test_every_agent_has_an_available_action(episodes):
    assert episodes.first.avail_actions.any(axis=-1).all()
    assert episodes.steps.avail_actions.any(axis=-1)[episodes.happened].all()


def test_padding_actions_are_unavailable_and_padding_is_zero(case, episodes):
    spec = make(case).spec
    for i, size in enumerate(spec.actions.sizes):
        assert not episodes.steps.avail_actions[:, :, i, size:].any()
        assert not episodes.steps.obs[:, :, i, spec.obs_shapes[i][0] :].any()


def test_the_longest_episode_has_max_steps(case, episodes):
    lengths = episodes.happened.sum(axis=1)
    assert (lengths[:4] == make(case).spec.max_steps).all()
    assert (lengths <= make(case).spec.max_steps).all()


def test_an_episode_ends_once_and_for_one_reason(episodes):
    terminated, truncated = episodes.steps.terminated, episodes.steps.truncated
    assert not (terminated & truncated).any()
    assert (episodes.total((terminated | truncated).astype(int)) == 1).all()
    assert episodes.final(terminated | truncated).all()


def test_idle_episodes_are_truncated_unless_the_horizon_is_part_of_the_task(case, episodes):
    terminates = case.startswith(("matrix", "two_step", "hanabi"))
    assert (episodes.final(episodes.steps.terminated)[:4] == terminates).all()
    assert (episodes.final(episodes.steps.truncated)[:4] != terminates).all()


def test_values_are_finite_and_metrics_are_zero_before_the_end(episodes):
    for values in (episodes.steps.obs, episodes.steps.state, episodes.steps.reward):
        assert np.isfinite(values[episodes.happened]).all()
    for values in episodes.steps.metrics.values():
        np.testing.assert_array_equal(episodes.total(values), episodes.final(values))


def test_values_stay_within_their_bounds(case, episodes):
    """SMAX units may be pushed slightly past the edge of the map."""
    spec = make(case).spec
    for field, bounds in (("obs", spec.obs_bounds), ("state", spec.state_bounds)):
        low, high = bounds or (-np.inf, np.inf)
        values = getattr(episodes.steps, field)[episodes.happened]
        assert low - 0.1 <= values.min() and values.max() <= high + 0.1
