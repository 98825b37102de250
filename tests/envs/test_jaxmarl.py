"""Properties of SMAX, MPE and the switch riddle."""

import types
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax.envs import jaxmarl
from qmix_jax.envs.jaxmarl import adapter, smax

SMAX = "HeuristicEnemySMAX"
STOP, FIRST_ATTACK = 4, 5
TELL = 2
SIZES = {  # obs, state, agents, actions
    "3m": (75, 72, 3, 8),
    "2s3z": (127, 120, 5, 10),
    "25m": (647, 600, 25, 30),
    "3s5z": (205, 192, 8, 13),
    "8m": (205, 192, 8, 13),
    "5m_vs_6m": (140, 132, 5, 11),
    "10m_vs_11m": (270, 252, 10, 16),
    "27m_vs_30m": (738, 684, 27, 35),
    "3s5z_vs_3s6z": (218, 204, 8, 14),
    "3s_vs_5z": (101, 96, 3, 10),
    "6h_vs_8z": (179, 168, 6, 13),
    "smacv2_5_units": (127, 120, 5, 10),
    "smacv2_10_units": (257, 240, 10, 15),
    "smacv2_20_units": (517, 480, 20, 25),
}


def make(id_=SMAX, **options):
    return jaxmarl.make(jaxmarl.Config.model_validate({"id": id_, **options}))


def stop(key, timestep):
    return jnp.full((timestep.obs.shape[0],), STOP, jnp.int32)


def fight(key, timestep):
    """Attacks if possible, otherwise mostly walks towards the enemy's side."""
    action = jnp.arange(timestep.avail_actions.shape[1])
    preference = jnp.where(action >= FIRST_ATTACK, 10.0, jnp.where(action == 1, 5.0, 0.0))
    logits = jnp.where(timestep.avail_actions, preference, -jnp.inf)
    return jax.random.categorical(key, logits).astype(jnp.int32)


# SMAX -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def battles(play):
    """3m against an enemy that shoots: 24 idle episodes, then 24 of fighting."""
    return play(make(scenario="3m"), (stop, fight), n_episodes=24)


@pytest.fixture(scope="module")
def marches(play, random_policy):
    """Units of two types, an enemy that does not shoot: idle, then random episodes."""
    env = make(scenario="2s3z", kwargs={"enemy_shoots": False, "walls_cause_death": False})
    return env, play(env, (stop, random_policy), n_episodes=4)


def test_the_table_of_sizes_is_complete():
    assert set(SIZES) == set(smax.scenarios())


@pytest.mark.parametrize("scenario", SIZES)
def test_sizes_of_every_scenario(scenario):
    env = make(scenario=scenario)
    key = jax.eval_shape(jax.random.key, 0)
    env_state, timestep = jax.eval_shape(env.reset, key)
    obs, state, agents, actions = SIZES[scenario]
    assert timestep.obs.shape == (agents, obs)
    assert timestep.state.shape == (state,)
    assert timestep.avail_actions.shape == (agents, actions)
    assert (env.spec.name, env.spec.max_steps) == (f"{SMAX}/{scenario}", 101)
    joint = jax.ShapeDtypeStruct((agents,), jnp.int32)
    after = jax.eval_shape(env.step, key, env_state, joint)
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(
        lambda x: x.shape, (env_state, timestep)
    )


@pytest.mark.slow
def test_returns_are_bounded_by_damage_and_the_bonus(battles):
    rewards = battles.steps.reward
    assert (rewards == rewards[..., :1]).all(), "every ally receives the team reward"
    returns = battles.total(rewards[..., 0])
    wins = battles.final(battles.steps.metrics["win_rate"])
    assert 0 < wins[24:].sum() < 24
    assert (2 * wins - 1e-4 <= returns).all()
    assert (returns <= 1 + wins + 1e-4).all()
    assert (returns[wins == 1] > 1.9999).all()


@pytest.mark.slow
def test_a_win_is_all_enemies_dead_and_an_ally_alive(battles):
    alive = battles.final(battles.env_states.state.unit_alive)
    won = alive[:, :3].any(axis=1) & ~alive[:, 3:].any(axis=1)
    np.testing.assert_array_equal(battles.final(battles.steps.metrics["win_rate"]), won)
    assert battles.final(battles.steps.terminated).all()
    assert not battles.final(battles.steps.truncated).any()


@pytest.mark.slow
def test_a_loss_is_terminated_without_reward_for_winning(battles):
    assert not battles.final(battles.env_states.state.unit_alive)[:24, :3].any()
    assert battles.final(battles.steps.terminated)[:24].all()
    assert (battles.total(battles.steps.reward[..., 0])[:24] <= 1 + 1e-4).all()


@pytest.mark.slow
def test_dead_allies_observe_zeros_and_can_only_stop(battles):
    alive = battles.env_states.state.unit_alive[:, :, :3]
    dead = ~alive & battles.happened[:, :, None]
    assert dead.any()
    assert not battles.steps.obs[dead].any()
    only_stop = np.arange(8) == STOP
    np.testing.assert_array_equal(
        battles.steps.avail_actions[dead], np.tile(only_stop, (dead.sum(), 1))
    )
    assert battles.steps.avail_actions[alive & battles.happened[:, :, None]][:, :FIRST_ATTACK].all()


@pytest.mark.slow
def test_a_timeout_with_both_teams_alive_is_truncated(marches):
    env, episodes = marches
    assert (episodes.happened.sum(axis=1)[:4] == env.spec.max_steps).all()
    assert episodes.final(episodes.steps.truncated)[:4].all()
    assert not episodes.final(episodes.steps.terminated)[:4].any()
    assert not episodes.final(episodes.steps.metrics["win_rate"])[:4].any()


@pytest.mark.slow
def test_the_normalised_state_is_bounded_and_the_raw_one_is_not(marches):
    _, episodes = marches
    assert episodes.steps.state.min() >= -0.1
    assert episodes.steps.state.max() <= 1.1
    assert episodes.final(episodes.env_states.state.unit_weapon_cooldowns)[:4].min() < -40


@pytest.mark.slow
def test_observations_fit_their_bounds(marches, battles):
    """Except for units pushed past the edge of the map, which 8-bit replay stores at the edge."""
    for env, episodes in (marches, (make(scenario="3m"), battles)):
        (low, high), obs = env.spec.obs_bounds, episodes.steps.obs
        assert obs.min() < low / 2 and obs.max() > high / 2, "the bounds are tight"
        assert low - 0.1 <= obs.min() and obs.max() <= high + 0.1
        assert env.spec.state_bounds == (0.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["2s3z", "smacv2_5_units"])
def test_observing_once_per_step_does_not_change_the_battle(scenario):
    original = adapter.construct(SMAX, {"scenario": smax.registered_scenario(scenario)})
    observed_once = smax._ObservedOnce(original)

    def battle(key):
        key_reset, key_steps = jax.random.split(key)

        def step(states, key):
            actions = {
                agent: jax.random.randint(jax.random.fold_in(key, i), (), 0, 10)
                for i, agent in enumerate(original.agents)
            }
            key = jax.random.fold_in(key, 99)
            outputs, after = zip(
                *[play(key, state, actions) for play, state in zip(plays, states, strict=True)],
                strict=True,
            )
            return after, outputs

        def play_with(env):
            def play(key, state, actions):
                obs, after, rewards, dones, _ = env.step_env(key, state, actions)
                by_agent = {agent: (obs[agent], rewards[agent]) for agent in original.agents}
                return (by_agent, obs["world_state"], dones["__all__"]), jax.tree.map(
                    jnp.asarray, after
                )

            return play

        plays = (play_with(original), play_with(observed_once))
        first = tuple(
            jax.tree.map(jnp.asarray, env.reset(key_reset)[1]) for env in (original, observed_once)
        )
        return jax.lax.scan(step, first, jax.random.split(key_steps, 60))[1]

    expected, result = jax.jit(jax.vmap(battle))(jax.random.split(jax.random.key(3), 8))
    assert expected[2].any(), "some battles end"
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), result, expected)


@pytest.mark.slow
def test_agent_state_equals_each_allys_view_of_itself(marches, battles):
    """JaxMARL normalises an agent's own block of the observation in the same way."""
    env, episodes = marches
    columns = episodes.steps.state[..., env.spec.agent_state]
    np.testing.assert_allclose(columns, episodes.steps.obs[..., -10:], atol=1e-6)
    agent_state = make(scenario="3m").spec.agent_state
    assert agent_state is not None
    columns = battles.steps.state[..., agent_state]
    np.testing.assert_allclose(columns, battles.steps.obs[..., -10:], atol=1e-6)


@pytest.mark.slow
def test_the_normalised_state_of_enemies_teams_and_types(marches):
    _, episodes = marches
    inner = episodes.env_states.state
    final = {
        name: episodes.final(getattr(inner, name))
        for name in (
            "unit_alive",
            "unit_positions",
            "unit_types",
            "unit_health",
            "unit_weapon_cooldowns",
        )
    }
    health = np.array([45.0, 125, 160, 150, 35, 80])[final["unit_types"]]
    cooldown = np.array([0.61, 1.07, 1.87, 0.86, 0.5, 0.59])[final["unit_types"]]
    blocks = (
        np.concatenate(
            [
                (final["unit_health"] / health)[..., None],
                final["unit_positions"] / 32,
                np.clip(final["unit_weapon_cooldowns"] / cooldown, 0, 1)[..., None],
                np.eye(6)[final["unit_types"]],
            ],
            axis=-1,
        )
        * final["unit_alive"][..., None]
    )
    expected = np.concatenate(
        [
            blocks.reshape(len(blocks), -1),
            np.tile([0.0] * 5 + [1.0] * 5, (len(blocks), 1)),
            final["unit_types"] / 5,
        ],
        axis=1,
    )
    np.testing.assert_allclose(episodes.final(episodes.steps.state), expected, atol=1e-6)


def test_types_that_change_between_episodes_are_normalised_by_their_own_cooldown():
    env, suite = smax.build(
        SMAX, {"scenario": smax.registered_scenario("smacv2_5_units")}, normalise=True
    )
    obs, _ = env.reset(jax.random.key(0))
    raw = np.array(obs["world_state"])
    unit_types = raw[-10:].astype(int)
    assert len(set(unit_types)) > 1
    state = suite.state(obs, None)
    np.testing.assert_allclose(state[-10:], unit_types / 5)
    np.testing.assert_allclose(state[1:100:10], raw[1:100:10] / 32, rtol=1e-6)
    per_type = np.array([0.61, 1.07, 1.87, 0.86, 0.5, 0.59])
    for share, expected in ((-30.0, 0.0), (0.25, 0.25), (1.2, 1.0)):
        raw[3:100:10] = share * per_type[unit_types]
        state = suite.state({"world_state": jnp.asarray(raw)}, None)
        np.testing.assert_allclose(state[3:100:10], expected, rtol=1e-6)


def test_the_raw_state_equals_jaxmarls():
    scenario = smax.registered_scenario("3m")
    obs, _ = adapter.construct(SMAX, {"scenario": scenario}).reset(jax.random.key(5))
    _, timestep = make(scenario="3m", normalise_state=False).reset(jax.random.key(5))
    np.testing.assert_array_equal(timestep.state, obs["world_state"])
    np.testing.assert_array_equal(timestep.obs, [obs[f"ally_{i}"] for i in range(3)])


@pytest.mark.parametrize(
    ("allies", "enemies", "terminates", "win"),
    [
        ([True, False], [False, False], True, True),
        ([False, False], [True, True], True, False),
        ([False, False], [False, False], True, False),
        ([True, True], [False, True], False, False),
    ],
)
def test_win_loss_draw_and_time_limit(allies, enemies, terminates, win):
    team = (("marine", 2),)
    scenario = smax.composed_scenario(team, team)
    _, suite = smax.build(SMAX, {"scenario": scenario}, normalise=True)
    alive = jnp.array(allies + enemies)
    after = types.SimpleNamespace(state=types.SimpleNamespace(unit_alive=alive))
    result, metrics = suite.outcome(None, after, jnp.zeros(2, jnp.int32))
    assert (bool(result), bool(metrics["win_rate"])) == (terminates, win)


def test_five_marines_composed():
    env = make(allies={"marine": 5}, enemies={"marine": 5})
    _, timestep = jax.eval_shape(env.reset, jax.eval_shape(jax.random.key, 0))
    assert timestep.obs.shape == (5, 127)
    assert timestep.avail_actions.shape == (5, 10)
    assert env.spec.name == f"{SMAX}/5marine_vs_5marine"


def test_a_composed_scenario_equals_the_registered_one():
    units = (("stalker", 3), ("zealot", 5))
    composed = smax.composed_scenario(units, (("stalker", 3), ("zealot", 6)))
    registered = smax.registered_scenario("3s5z_vs_3s6z")
    np.testing.assert_array_equal(composed.unit_types, registered.unit_types)
    assert (composed.num_allies, composed.num_enemies) == (8, 9)


def test_unit_types_are_jaxmarls():
    env = adapter.construct(SMAX, {"scenario": smax.registered_scenario("3m")})
    assert list(get_args(smax.UnitType)) == env.unit_type_names


# MPE ------------------------------------------------------------------------------------------


def test_speaker_and_listener_are_padded_in_order():
    raw = adapter.construct("MPE_simple_speaker_listener_v4", {})
    obs, _ = raw.reset(jax.random.key(2))
    env = make("MPE_simple_speaker_listener_v4")
    env_state, timestep = env.reset(jax.random.key(2))
    assert env.spec.agent_names == ("speaker_0", "listener_0")
    np.testing.assert_array_equal(timestep.obs[0], np.pad(obs["speaker_0"], (0, 8)))
    np.testing.assert_array_equal(timestep.obs[1], obs["listener_0"])
    np.testing.assert_array_equal(timestep.state, [*obs["speaker_0"], *obs["listener_0"]])
    _, following = env.step(jax.random.key(3), env_state, jnp.array([1, 2]))
    np.testing.assert_array_equal(following.state, [*following.obs[0, :3], *following.obs[1]])
    np.testing.assert_array_equal(timestep.avail_actions, [[True] * 3 + [False] * 2, [True] * 5])
    assert (env.spec.agent_groups, env.spec.agent_state) == ((0, 1), None)


def test_padding_actions_are_played_as_the_last_action():
    env = make("MPE_simple_speaker_listener_v4")
    env_state, _ = env.reset(jax.random.key(0))
    after, _ = jax.jit(env.step)(jax.random.key(1), env_state, jnp.array([4, 0]))
    np.testing.assert_array_equal(after.c[0], [0, 0, 1])


def test_the_team_reward_is_the_sum():
    raw = adapter.construct("MPE_simple_spread_v3", {})
    env = make("MPE_simple_spread_v3")
    env_state, timestep = env.reset(jax.random.key(0))
    actions = dict.fromkeys(raw.agents, jnp.int32(1))
    obs, _, rewards, _, _ = raw.step_env(jax.random.key(1), env_state, actions)
    _, following = env.step(jax.random.key(1), env_state, jnp.ones(3, jnp.int32))
    np.testing.assert_allclose(following.reward, [rewards[agent] for agent in raw.agents])
    assert env.team_reward(following.reward) == pytest.approx(sum(map(float, rewards.values())))
    np.testing.assert_array_equal(following.obs[2], obs["agent_2"])
    np.testing.assert_array_equal(timestep.state[env.spec.agent_state], timestep.obs)


# The switch riddle ----------------------------------------------------------------------------


def _riddle(all_have_been, action_in_room, action_outside):
    """One joint action of three agents, followed by 16 draws of who enters the room next."""
    env = make("switch_riddle")
    env_state, _ = env.reset(jax.random.key(0))
    env_state = env_state.replace(has_been=jnp.full(3, all_have_been, jnp.int32))
    in_room = jnp.arange(3) == env_state.agent_in_room
    actions = jnp.where(in_room, action_in_room, action_outside)
    keys = jax.random.split(jax.random.key(1), 16)
    after, timestep = jax.vmap(lambda key: env.step(key, env_state, actions))(keys)
    assert len(np.unique(after.agent_in_room)) == 3
    return timestep


@pytest.mark.parametrize(("all_have_been", "reward", "win"), [(True, 1, 1), (False, -1, 0)])
def test_telling_ends_the_riddle(all_have_been, reward, win):
    timestep = _riddle(all_have_been, action_in_room=TELL, action_outside=0)
    assert (timestep.reward == reward).all()
    assert (timestep.metrics["win_rate"] == win).all()
    assert timestep.terminated.all()
    assert not timestep.truncated.any()


def test_only_the_agent_in_the_room_can_tell():
    timestep = _riddle(True, action_in_room=0, action_outside=TELL)
    assert not timestep.reward.any()
    assert not timestep.metrics["win_rate"].any()
    assert not timestep.terminated.any()
