"""Policies of every kind of network, in JAX and NumPy, for a team and for single agents."""

import dataclasses
import pathlib
import re

import jax
import numpy as np
import pytest
import samples
from toys import teams

from qmix_jax import config
from qmix_jax.deploy import agreement, export, policy, runner
from qmix_jax.runs import parameters
from qmix_jax.types import Box

NOWHERE = pathlib.Path("nowhere")


@pytest.fixture(params=teams.TEAMS)
def run(request):
    return teams.team(request.param, NOWHERE)


@pytest.fixture(scope="module")
def uneven():
    """Three agents with 5, 3 and 5 observations and 4, 2 and 4 actions."""
    return numpy_policy(teams.team("gru", NOWHERE), 0)


def numpy_step(run, member):
    return runner.network_step(
        export._network(run), parameters.flatten(run.member_params(member)["agent"])
    )


def numpy_policy(run, member):
    return runner.make_policy(policy.about(run, member), numpy_step(run, member))


def test_teams_and_single_agents_act_as_the_algorithm_does(run):
    check(run, policy.from_run(run, 0), numpy_policy(run, 0))


@pytest.mark.parametrize("name", teams.BFLOAT16)
def test_bfloat16_acts_as_in_training_and_not_in_numpy(name):
    run = teams.team(name, NOWHERE)
    check(run, policy.from_run(run, 0))
    with pytest.raises(export.RefusedError, match="NumPy does not support bfloat16"):
        export._network(run)


def check(run, *policies):
    """Asserts that policies, and their single agents, act as in training."""
    episodes = teams.Episodes(run.spec)
    expected = teams.trainers_actions(run, 0, episodes)
    assert len(np.unique(expected)) > 1, "the test needs different actions"
    for team in policies:
        np.testing.assert_array_equal(episodes.played(team), expected)
        for i, name in enumerate(team.agent_names):
            agent = team.agent(name)
            assert agent.agent_names == (name,)
            assert agent.actions.sizes == (run.spec.actions.sizes[i],)
            np.testing.assert_array_equal(episodes.of_agent(i).played(agent), expected[:, :, i])


@pytest.mark.parametrize("name", ["norm", "each its own", "groups", "images, odd"])
def test_numpy_computes_the_utilities_and_carry_of_jax(name):
    run = teams.team(name, NOWHERE)
    episodes = teams.Episodes(run.spec, steps=1, n_envs=7)
    obs, avail = episodes.obs[0], episodes.avail[0]
    state = {
        name: np.full(x.shape, 0.3 if x.dtype == np.float32 else 1, x.dtype)
        for name, x in policy.from_run(run, 0).initial_state(7).arrays.items()
    }
    state["reset"] = np.arange(7) < 2
    _, q, after = samples.jit(policy.make_step(run))(run.member_params(0), obs, avail, state)
    _, q_numpy, after_numpy = numpy_step(run, 0)(obs, avail, state)
    np.testing.assert_allclose(q_numpy, q, rtol=1e-5, atol=2e-6)
    assert after_numpy.keys() == after.keys()
    for name, value in after.items():
        assert after_numpy[name].dtype == value.dtype
        np.testing.assert_allclose(after_numpy[name], value, rtol=1e-5, atol=2e-6)


ALGORITHMS = [
    (name, options) for name in samples.ALGORITHMS for options in samples.VARIANTS.get(name, ({},))
]


@pytest.mark.parametrize(("name", "options"), ALGORITHMS)
def test_every_algorithm_acts_as_in_training(name, options):
    mixer = {"name": "qmix"} if name in ("td", "wqmix", "pqn") else None
    algo = {"name": name, "algorithm": name, "options": options, "mixer": mixer}
    agent = {"name": "lstm" if name == "wqmix" else "mlp", "options": {"hidden": 8}}
    run = teams.run_of(agent, teams.UNEVEN, "default", NOWHERE, algo=algo)
    episodes = teams.Episodes(run.spec)
    expected = teams.trainers_actions(run, 1, episodes)
    np.testing.assert_array_equal(episodes.played(policy.from_run(run, 1)), expected)


def toy(name, spec=teams.UNEVEN, **options):
    algo = {"name": "toy", "algorithm": f"toys.{name}", "options": options}
    agent = {"name": "gru", "options": {"hidden": 8}}
    return teams.run_of(agent, spec, "default", NOWHERE, algo=algo)


def test_continuous_actions_lie_in_the_box():
    box = dataclasses.replace(teams.UNEVEN, actions=Box((2, 1, 2), low=-1.0, high=3.0))
    run = toy("deterministic", box)
    episodes = teams.Episodes(box)
    expected = teams.trainers_actions(run, 0, episodes)
    assert expected.shape == (12, 3, 3, 2) and -1 <= expected.min() < 0 and 2 < expected.max() <= 3
    for team in (policy.from_run(run, 0), numpy_policy(run, 0)):
        assert team.actions == runner.Actions("box", (2, 1, 2), -1.0, 3.0)
        actions = episodes.played(team)
        assert actions.dtype == np.float32
        np.testing.assert_allclose(actions, expected, atol=1e-5)
        for i, name in enumerate(box.agent_names):
            actions_i = episodes.of_agent(i).played(team.agent(name))
            np.testing.assert_array_equal(actions_i, actions[:, :, i])
        state = team.initial_state()
        np.testing.assert_array_equal(state.arrays["prev_actions"], np.zeros((1, 3, 2)))
        with pytest.raises(ValueError, match="epsilon is for discrete actions"):
            team.act(episodes.obs[0, 0], None, state, epsilon=0.1, rng=np.random.default_rng(0))


def test_sampling_uses_the_key_in_the_state():
    run = toy("sampling", temperature=0.7)
    team, episodes = policy.from_run(run, 0), teams.Episodes(run.spec)
    expected = teams.trainers_actions(run, 0, episodes, seed=5)
    np.testing.assert_array_equal(episodes.played(team, seed=5), expected)
    for i, name in enumerate(team.agent_names):
        actions_i = episodes.of_agent(i).played(team.agent(name), seed=5)
        np.testing.assert_array_equal(actions_i, expected[:, :, i])
    assert (episodes.played(team, seed=6) != expected).any()
    states = [team.initial_state(3, seed) for seed in (None, None, 5, 5)]
    keys = [tuple(state.arrays["key"]) for state in states]
    assert keys[0] != keys[1] and keys[2] == keys[3]
    with pytest.raises(ValueError, match="seed=-1; allowed: 0 to"):
        team.initial_state(seed=-1)


def test_numpy_samples_from_the_same_distribution():
    run = toy("sampling")
    n = 20_000
    episode = teams.Episodes(run.spec, steps=1, n_envs=1)
    obs, avail = (np.repeat(x[0], n, axis=0) for x in (episode.obs, episode.avail))
    team = numpy_policy(run, 0)
    counts = []
    for either in (policy.from_run(run, 0), team):
        actions, state = either.act(obs, avail, either.initial_state(n, seed=0))
        assert np.take_along_axis(avail, actions[..., None], axis=-1).all()
        counts.append(np.stack([np.sum(actions == a, axis=0) for a in range(4)], axis=-1))
        again, _ = either.act(obs, avail, either.initial_state(n, seed=0))
        np.testing.assert_array_equal(again, actions)
        later, _ = either.act(obs, avail, either.restart(state, np.ones(n, bool)))
        assert (later != actions).any(), "a new key"
    used = avail[0]
    statistic = np.sum((counts[0] - counts[1])[used] ** 2 / np.sum(counts, axis=0)[used])
    freedom = used.sum() - len(used)
    assert freedom >= 3 and statistic < freedom + 5 * np.sqrt(2 * freedom)
    episodes = teams.Episodes(run.spec, n_envs=4)
    played = episodes.played(team, seed=3)
    for i, name in enumerate(team.agent_names):
        actions_i = episodes.of_agent(i).played(team.agent(name), seed=3)
        np.testing.assert_array_equal(actions_i, played[:, :, i])


def difference(run, change=lambda arrays: arrays):
    """Between the algorithm and the NumPy implementation with changed parameters."""
    arrays = change(dict(parameters.flatten(run.member_params(0)["agent"])))
    step = runner.network_step(export._network(run), arrays)
    reference = agreement.reference_rollout(run, 0)
    return agreement.difference(reference, policy.about(run, 0), step, compare_probabilities=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [("sampling", {}), ("sampling", {"temperature": 1.001}), ("deterministic", {})],
)
def test_the_comparison_accepts_equal_policies(name, options):
    spec = teams.UNEVEN
    if name == "deterministic":
        spec = dataclasses.replace(spec, actions=Box((2, 1, 2)))
    assert difference(toy(name, spec, **options)) is None


@pytest.mark.parametrize("name", ["gru", "images, odd", "states"])
def test_the_comparison_accepts_numpy_networks(name):
    assert difference(teams.team(name, NOWHERE)) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.7}, "the algorithm does not sample from the softmax of its head"),
        ({"act": "argmin"}, "the algorithm does not sample from the softmax of its head"),
        ({"act": "argmin", "head": "argmax"}, r"\d+ of its 192 actions differ"),
        ({"head": "argmax"}, r"\d+ of its 192 actions differ"),
    ],
)
def test_the_comparison_detects_a_wrong_head(options, message):
    assert re.fullmatch(message + ".*", difference(toy("sampling", **options)))


def test_the_comparison_detects_a_changed_parameter():
    def change(arrays):
        return {**arrays, "head/bias": arrays["head/bias"] + np.float32([0.2, 0, 0, 0])}

    box = dataclasses.replace(teams.UNEVEN, actions=Box(4))
    for run in (teams.team("gru", NOWHERE), toy("sampling"), toy("deterministic", box)):
        assert "its network outputs differ by" in difference(run, change)


def test_the_comparison_accepts_other_choices_among_ties():
    run = teams.team("mlp", NOWHERE)
    zeros = jax.tree.map(np.zeros_like, run.parameters)
    run = run._replace(parameters=zeros)
    step = numpy_step(run, 0)

    def last(obs, avail, state):
        _, q, state = step(obs, avail, state)
        return (3 - np.argmax(avail[..., ::-1], axis=-1)).astype(np.int32), q, state

    reference = agreement.reference_rollout(run, 0)
    first = reference.obs[0], reference.avail[0], policy.from_run(run, 0).initial_state(8).arrays
    assert (last(*first)[0] != reference.actions[0]).any()
    assert agreement.difference(reference, policy.about(run, 0), last) is None


@pytest.mark.parametrize("name", teams.BFLOAT16)
def test_the_comparison_accepts_bfloat16_programs(name):
    run = teams.team(name, NOWHERE)
    about = policy.about(run, 0)
    contents, refused = export._contents(run, 0, about, ("stablehlo",), ("cpu",))
    assert not refused and len(contents["policy.stablehlo"]) > 1000


def test_exported_programs_contain_no_training_parameters():
    mixer = {"name": "qmix", "options": {"hypernet_embed": 4096}}
    algo = {"name": "qmix", "algorithm": "td", "mixer": mixer}
    agent = {"name": "mlp", "options": {"hidden": 8}}
    run = teams.run_of(agent, teams.UNEVEN, "default", NOWHERE, algo=algo)
    contents, _ = export._contents(run, 0, policy.about(run, 0), ("stablehlo",), ("cpu",))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(run.member_params(0)["mixer"]))
    assert size > 200_000 > 4 * len(contents["policy.stablehlo"]), "the mixer is far larger"


def test_one_environment_needs_no_batch_axis(uneven):
    episodes = teams.Episodes(teams.UNEVEN, n_envs=1)
    state, expected = uneven.initial_state(), episodes.played(uneven)[:, 0]
    agent, agent_state = uneven.agent(1), uneven.agent(1).initial_state()
    for t, reset in enumerate(episodes.reset[:, 0]):
        if reset:
            state, agent_state = uneven.initial_state(), agent.initial_state()
        obs, avail = episodes.obs[t, 0], episodes.avail[t, 0]
        actions, state = uneven.act(obs, avail, state)
        np.testing.assert_array_equal(actions, expected[t])
        action, agent_state = agent.act(obs[1], avail[1], agent_state)
        assert action == expected[t, 1] and action.shape == () and action.dtype == np.int32


def test_mappings_of_unpadded_arrays_are_accepted(uneven):
    episodes = teams.Episodes(teams.UNEVEN, n_envs=1, steps=1)
    obs, avail = episodes.obs[0, 0], episodes.avail[0, 0]
    obs[1, 3:] = 0.0
    expected, _ = uneven.act(obs, avail, uneven.initial_state())
    mappings = (
        {"a": obs[0], "b": obs[1, :3], "c": obs[2]},
        {"a": avail[0], "b": avail[1, :2], "c": avail[2]},
    )
    actions, _ = uneven.act(*mappings, uneven.initial_state())
    np.testing.assert_array_equal(actions, expected)
    action, _ = uneven.agent("b").act(mappings[0]["b"], mappings[1]["b"], uneven.initial_state())
    assert action == expected[1]


def test_padding_actions_are_never_chosen(uneven):
    obs = 5 * samples.normal(np.random.default_rng(0), 500, 3, 5)
    state = uneven.initial_state(500)
    _, q, _ = numpy_step(teams.team("gru", NOWHERE), 0)(obs, np.ones((500, 3, 4)), state.arrays)
    assert (np.argmax(q[:, 1], axis=-1) >= 2).any(), "their utilities are the largest"
    for avail in (None, np.ones((500, 3, 4), bool)):
        assert (uneven.act(obs, avail, state)[0][:, 1] < 2).all()


def test_epsilon_draws_available_actions_and_updates_the_state(uneven):
    obs = samples.normal(np.random.default_rng(0), 3000, 3, 5)
    avail = np.ones((3000, 3, 4), bool)
    avail[..., 1] = False
    state = uneven.initial_state(3000)
    greedy, _ = uneven.act(obs, avail, state)
    actions, after = uneven.act(obs, avail, state, epsilon=0.5, rng=np.random.default_rng(1))
    assert actions.dtype == np.int32 and (actions != 1).all() and (actions[:, 1] == 0).all()
    # three actions are allowed, so a third of the draws are greedy
    assert abs((actions[:, 0] != greedy[:, 0]).mean() - 0.5 * 2 / 3) < 0.04
    np.testing.assert_array_equal(after.arrays["prev_actions"], actions)
    with pytest.raises(ValueError, match=r"epsilon=0\.5 needs rng"):
        uneven.act(obs, avail, state, epsilon=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((3, 4)), None), r"obs has shape \(3, 4\); expected \(3, 5\)"),
        ((np.zeros((2, 3, 5)), None), r"obs has shape \(2, 3, 5\); expected \(3, 5\)"),
        (({"a": np.zeros(5)}, None), "obs has no entry 'b'; got: a"),
        (({"a": np.zeros(5), "b": np.zeros(4)}, None), r"obs of b .* expected \(3,\) or \(5,\)"),
        ((np.zeros((3, 5)), np.ones((3, 3), bool)), r"avail_actions has shape .* \(3, 4\)"),
        ((np.zeros((3, 5)), np.eye(3, 4)[[0, 2, 1]]), "agent 'b' has no available action; every"),
    ],
)
def test_inputs_of_wrong_shape_are_one_line_errors(uneven, arguments, message):
    with pytest.raises(ValueError, match=message) as raised:
        uneven.act(*arguments, uneven.initial_state())
    assert "\n" not in str(raised.value)


def test_unknown_agents_and_members_are_refused(uneven):
    with pytest.raises(ValueError, match=r"unknown agent 'd'; allowed: a, b, c"):
        uneven.agent("d")
    run = teams.team("gru", NOWHERE)
    assert run.member("best") == 1, "it has the better score"
    with pytest.raises(config.ConfigError, match=r"member=2, but the run has 2; allowed: best, 0"):
        run.member(2)
