"""Policies of every kind of network, run by JAX and by NumPy, of a team and of one agent."""

import pathlib

import jax
import numpy as np
import pytest
import samples
from toys import teams

from qmix_jax import config
from qmix_jax.deploy import export, policy, runner

NOWHERE = pathlib.Path("nowhere")


@pytest.fixture(params=teams.TEAMS)
def run(request):
    return teams.team(request.param, NOWHERE)


@pytest.fixture(scope="module")
def uneven():
    """Three agents with observations of 5, 3 and 5 numbers and 4, 2 and 4 actions."""
    return in_numpy(teams.team("gru", NOWHERE), 0)


def numpy_step(run, member):
    leaves = jax.tree.flatten_with_path(run.own(member)["agent"])[0]
    arrays = {jax.tree_util.keystr(k, simple=True, separator="/"): leaf for k, leaf in leaves}
    return runner.network(export._network(run), arrays)


def in_numpy(run, member):
    return runner.make(policy.about(run, member), numpy_step(run, member))


def test_acts_as_the_factorisation_does_and_one_agent_as_the_team(run):
    check(run, policy.of_run(run, 0), in_numpy(run, 0))


@pytest.mark.parametrize("name", teams.BFLOAT16)
def test_bfloat16_is_as_it_was_trained_and_has_no_numpy_runner(name):
    run = teams.team(name, NOWHERE)
    check(run, policy.of_run(run, 0))
    with pytest.raises(config.ConfigError, match=r"no NumPy runner.*use --format stablehlo"):
        export._network(run)


def check(run, *policies):
    """The policies act as the trainer does, and their agents by themselves as well."""
    episodes = teams.Episodes(run.spec)
    expected = teams.trainers_actions(run, 0, episodes)
    assert len(np.unique(expected)) > 1, "otherwise this proves nothing"
    for team in policies:
        np.testing.assert_array_equal(episodes.played(team), expected)
        for i, name in enumerate(team.agent_names):
            own = team.agent(name)
            assert own.agent_names == (name,) and own.n_actions == (run.spec.n_actions[i],)
            np.testing.assert_array_equal(episodes.of_agent(i).played(own), expected[:, :, i])


@pytest.mark.parametrize("name", ["norm", "each its own", "groups", "images, odd"])
def test_numpy_finds_the_utilities_and_the_carry_of_jax(name):
    run = teams.team(name, NOWHERE)
    episodes = teams.Episodes(run.spec, steps=1, n_envs=7)
    obs, avail = episodes.obs[0], episodes.avail[0]
    state = {
        name: np.full(x.shape, 0.3 if x.dtype == np.float32 else 1, x.dtype)
        for name, x in policy.of_run(run, 0).initial_state(7).arrays.items()
    }
    state["reset"] = np.arange(7) < 2
    _, q, after = policy.make_step(run)(run.own(0)["agent"], obs, avail, state)
    _, q_numpy, after_numpy = numpy_step(run, 0)(obs, avail, state)
    np.testing.assert_allclose(q_numpy, q, rtol=1e-5, atol=2e-6)
    assert after_numpy.keys() == after.keys()
    for name, value in after.items():
        assert after_numpy[name].dtype == value.dtype
        np.testing.assert_allclose(after_numpy[name], value, rtol=1e-5, atol=2e-6)


FACTORISATIONS = [
    (name, options)
    for name in samples.FACTORISATIONS
    for options in samples.VARIANTS.get(name, ({},))
]


@pytest.mark.parametrize(("name", "options"), FACTORISATIONS)
def test_every_factorisation_acts_by_its_agent_alone(name, options):
    mixer = {"name": "qmix"} if name in ("td", "wqmix", "pqn") else None
    algo = {"name": name, "factorisation": {"name": name, "options": options}, "mixer": mixer}
    agent = {"name": "lstm" if name == "wqmix" else "mlp", "options": {"hidden": 8}}
    run = teams.run_of(agent, teams.UNEVEN, "default", NOWHERE, algo=algo)
    episodes = teams.Episodes(run.spec)
    expected = teams.trainers_actions(run, 1, episodes)
    np.testing.assert_array_equal(episodes.played(policy.of_run(run, 1)), expected)


def test_one_environment_needs_no_batch_axis(uneven):
    episodes = teams.Episodes(teams.UNEVEN, n_envs=1)
    state, expected = uneven.initial_state(), episodes.played(uneven)[:, 0]
    own, alone = uneven.agent(1), uneven.agent(1).initial_state()
    for t, reset in enumerate(episodes.reset[:, 0]):
        if reset:
            state, alone = uneven.initial_state(), own.initial_state()
        obs, avail = episodes.obs[t, 0], episodes.avail[t, 0]
        actions, state = uneven.act(obs, avail, state)
        np.testing.assert_array_equal(actions, expected[t])
        action, alone = own.act(obs[1], avail[1], alone)
        assert action == expected[t, 1] and action.shape == () and action.dtype == np.int32


def test_mappings_and_observations_of_an_agents_own_size_are_padded(uneven):
    episodes = teams.Episodes(teams.UNEVEN, n_envs=1, steps=1)
    obs, avail = episodes.obs[0, 0], episodes.avail[0, 0]
    obs[1, 3:] = 0.0
    expected, _ = uneven.act(obs, avail, uneven.initial_state())
    own = (
        {"a": obs[0], "b": obs[1, :3], "c": obs[2]},
        {"a": avail[0], "b": avail[1, :2], "c": avail[2]},
    )
    actions, _ = uneven.act(*own, uneven.initial_state())
    np.testing.assert_array_equal(actions, expected)
    action, _ = uneven.agent("b").act(own[0]["b"], own[1]["b"], uneven.initial_state())
    assert action == expected[1]


def test_actions_that_an_agent_lacks_are_never_chosen(uneven):
    obs = 5 * samples.normal(np.random.default_rng(0), 500, 3, 5)
    state = uneven.initial_state(500)
    _, q, _ = numpy_step(teams.team("gru", NOWHERE), 0)(obs, np.ones((500, 3, 4)), state.arrays)
    assert (np.argmax(q[:, 1], axis=-1) >= 2).any(), "it would like to"
    for avail in (None, np.ones((500, 3, 4), bool)):
        assert (uneven.act(obs, avail, state)[0][:, 1] < 2).all()


def test_epsilon_draws_among_what_is_allowed_and_is_remembered(uneven):
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
        ((np.zeros((3, 5)), np.eye(3, 4)[[0, 2, 1]]), "allow b nothing; give everyone one action"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(uneven, arguments, message):
    with pytest.raises(ValueError, match=message) as raised:
        uneven.act(*arguments, uneven.initial_state())
    assert "\n" not in str(raised.value)


def test_an_unknown_agent_or_member_is_named(uneven):
    with pytest.raises(ValueError, match=r"no agent 'd'; allowed: a, b, c"):
        uneven.agent("d")
    run = teams.team("gru", NOWHERE)
    assert run.member("best") == 1, "it has the better score"
    with pytest.raises(config.ConfigError, match=r"member=2, but the run has 2; allowed: best, 0"):
        run.member(2)
