"""Properties of Overcooked, Hanabi, the coin game and JaxNav."""

import contextlib
import io
import types
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax.envs import jaxmarl
from qmix_jax.envs.jaxmarl import adapter, hanabi, jaxnav


def make(id_, **kwargs):
    return jaxmarl.make(jaxmarl.Config(id=id_, kwargs=tuple(kwargs.items())))


def step_of(env):
    return jax.jit(env.step)


# Overcooked: the cramped room is 5 cells wide, its pot at (2, 0), its goal at (3, 3) -------------

STAY, INTERACT = 4, 5
FLOOR = [6, 7, 8, 11, 12, 13]
ONION, PLATE, DISH = 3, 5, 9


@pytest.fixture(scope="module")
def kitchen():
    """`(position, direction, inventory) -> TimeStep` in one-step episodes, so metrics are final."""
    env = make("overcooked", shaped_reward=0.5, max_steps=1)
    start, _ = jax.jit(env.reset)(jax.random.key(0))
    step = step_of(env)

    def interact(place, facing, holding):
        """The first cook interacts; the second stays at (3, 1), facing down."""
        scene = replace(
            start,
            kitchen=start.kitchen.replace(
                agent_pos=jnp.array([place, (3, 1)], jnp.uint32),
                agent_dir_idx=jnp.array([facing, 1]),
                agent_dir=jnp.array([[(0, -1), (0, 1)][facing], (0, 1)], jnp.int8),
                agent_inv=jnp.array([holding, 1]),
            ),
        )
        return step(jax.random.key(1), scene, jnp.array([INTERACT, STAY]))[1]

    return interact


def test_an_onion_in_the_pot_pays_the_shaped_reward_only(kitchen):
    timestep = kitchen((2, 1), 0, ONION)
    np.testing.assert_array_equal(timestep.reward, [1.5, 1.5])
    assert timestep.metrics == {"sparse_return": 0, "shaped_return": 3}
    assert (bool(timestep.terminated), bool(timestep.truncated)) == (False, True)


def test_delivering_a_soup_pays_twenty(kitchen):
    timestep = kitchen((3, 2), 1, DISH)
    np.testing.assert_array_equal(timestep.reward, [20, 20])
    assert timestep.metrics == {"sparse_return": 20, "shaped_return": 0}


def test_the_state_of_a_kitchen_by_hand(kitchen):
    state = np.asarray(kitchen((2, 1), 0, ONION).state)
    cooks, lying, pot = state[:26].reshape(2, 13), state[26:-3].reshape(-1, 3), state[-3:]
    np.testing.assert_array_equal(cooks[0], [*np.eye(6)[FLOOR.index(7)], 1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(cooks[1], [*np.eye(6)[FLOOR.index(8)], 0, 1, 0, 0, 0, 0, 0])
    assert not lying.any()
    np.testing.assert_allclose(pot, [1 / 3, 0, 0], rtol=1e-6)
    state = np.asarray(kitchen((1, 1), 0, PLATE).state)
    assert state[26:-3].reshape(-1, 3)[1].tolist() == [0, 1, 0], "on the counter above"


def test_observations_keep_jaxmarls_shape():
    spec = make("overcooked", layout="asymm_advantages").spec
    assert (spec.name, spec.obs_shape) == ("overcooked/asymm_advantages", (5, 9, 26))
    assert spec.max_steps == 400
    spec = make("overcooked_v2", layout="two_rooms", agent_view_size=2).spec
    assert (spec.obs_shape[:2], spec.n_agents) == ((5, 5), 2)


def test_overcooked_v2_by_hand():
    """The state has the ingredient in the pot, whatever the cooks observe."""
    env = make("overcooked_v2", shaped_reward=2.0, agent_view_size=1)
    start, first = jax.jit(env.reset)(jax.random.key(0))
    agents = start.kitchen.agents
    agents = agents.replace(
        pos=agents.pos.replace(x=jnp.array([2, 3]), y=jnp.array([1, 2])),
        dir=jnp.array([0, 1]),
        inventory=jnp.array([1 << 2, 0]),
    )
    scene = replace(start, kitchen=start.kitchen.replace(agents=agents))
    _, timestep = step_of(env)(jax.random.key(1), scene, jnp.array([INTERACT, STAY]))
    np.testing.assert_array_equal(timestep.reward, [6, 6])
    state = np.asarray(timestep.state)
    cooks, furniture = state[:26].reshape(2, 13), state[26 : 26 + 14 * 3].reshape(14, 3)
    np.testing.assert_array_equal(cooks[0], [*np.eye(6)[FLOOR.index(7)], 1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(cooks[1], [*np.eye(6)[FLOOR.index(13)], 0, 1, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(furniture[2], [0, 0, 1 / 3], rtol=1e-6)
    assert furniture.sum() == pytest.approx(1 / 3)
    np.testing.assert_array_equal(state[-3:], [0, 0, 1])  # the recipe: three of the only ingredient
    assert first.obs.shape == (2, 3, 3, 30)


# Hanabi ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def game():
    """Two players, two colours and ranks, one card each, one life; the first has card (0, rank)."""
    options = {"num_colors": 2, "num_ranks": 2, "hand_size": 1, "max_life_tokens": 1}
    env = make("hanabi", **options)
    start, first = jax.jit(env.reset)(jax.random.key(0))
    step = step_of(env)

    def play(rank):
        card = jnp.zeros((2, 2)).at[0, rank].set(1)
        state = start.replace(player_hands=start.player_hands.at[0, 0].set(card))
        return step(jax.random.key(1), state, jnp.array([1, 6]))[1]

    return first, play


def test_out_of_turn_only_the_no_op_is_available(game):
    first, play = game
    for timestep, waiting in ((first, 1), (play(0), 0)):
        np.testing.assert_array_equal(timestep.avail_actions[waiting], [False] * 6 + [True])
        assert not timestep.avail_actions[1 - waiting, 6]
        assert timestep.avail_actions[1 - waiting, 1]


def test_a_correct_card_pays_one_and_losing_the_last_life_ends_the_game(game):
    _, play = game
    right, wrong = play(0), play(1)
    np.testing.assert_array_equal([right.reward, wrong.reward], [[1, 1], [0, 0]])
    assert [bool(timestep.terminated) for timestep in (right, wrong)] == [False, True]
    assert not wrong.truncated


def test_the_state_of_a_game_by_hand(game):
    """Per player: hand (4), hinted colours and ranks (2 + 2), turn (1)."""
    first, play = game
    players = np.asarray(first.state[:18]).reshape(2, 9)
    np.testing.assert_array_equal(players[:, -1], [1, 0])
    np.testing.assert_array_equal(players[:, :4].sum(axis=1), [1, 1])
    assert not players[:, 4:8].any()
    after = np.asarray(play(0).state)
    np.testing.assert_array_equal(after[:18].reshape(2, 9)[:, -1], [0, 1])
    fireworks = after[18 + 6 : 18 + 10]  # after the deck's six cards
    np.testing.assert_array_equal(fireworks, [1, 0, 0, 0])


def test_the_published_game():
    spec = make("hanabi").spec
    assert (spec.actions.width, spec.obs_shape, spec.max_steps) == (21, (658,), 89)
    sizes = types.SimpleNamespace(max_info_tokens=8, num_agents=5)
    assert hanabi._longest_game(sizes, 30) == 30 + 37 + 5


# The coin game -----------------------------------------------------------------------------------


def test_coins_pay_the_team():
    """Both agents step right, onto the given coins."""
    env = make("coin_game")
    start, first = jax.jit(env.reset)(jax.random.key(0))
    step = step_of(env)

    def collect(red_coin, blue_coin):
        state = start.replace(
            red_pos=jnp.array([0, 0]), blue_pos=jnp.array([2, 1]),
            red_coin_pos=jnp.array(red_coin), blue_coin_pos=jnp.array(blue_coin),
        )  # fmt: skip
        (team,) = set(step(jax.random.key(1), state, jnp.array([0, 0]))[1].reward.tolist())
        return team

    assert collect((0, 1), (2, 2)) == 2, "each collects its own"
    assert collect((1, 1), (0, 1)) == -1, "red collects blue's"
    assert collect((2, 2), (0, 1)) == -2, "each collects the other's"
    assert env.spec.max_steps == 100
    np.testing.assert_array_equal(first.state, first.obs[0])


# JaxNav ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrived", "crashed", "terminates", "win"),
    [
        ([True, True], [False, False], True, True),
        ([True, False], [False, True], True, False),
        ([True, False], [False, False], False, False),
    ],
)
def test_arriving_crashing_and_the_limit(arrived, crashed, terminates, win):
    after = types.SimpleNamespace(goal_reached=jnp.array(arrived), move_term=jnp.array(crashed))
    result, metrics = jaxnav._outcome(None, after, jnp.zeros(2, jnp.int32))
    assert (bool(result), bool(metrics["win_rate"])) == (terminates, win)


@pytest.mark.slow
def test_robots_drive_as_in_jaxmarl_and_share_the_reward():
    sizes = {"lidar_num_beams": 4, "num_agents": 2}
    env = make("jaxnav", **sizes)
    original = adapter.construct("jaxnav", {**sizes, "act_type": "Discrete"})
    state, first = jax.jit(env.reset)(jax.random.key(3))

    def both(key, actions):
        with contextlib.redirect_stdout(io.StringIO()):
            named = dict(zip(original.agents, actions, strict=True))
            obs, _, rewards, _, _ = original.step_env(key, state, named)
        return env.step(key, state, actions)[1], obs, rewards

    timestep, obs, rewards = jax.jit(both)(jax.random.key(4), jnp.array([10, 5]))
    for i, agent in enumerate(original.agents):
        np.testing.assert_array_equal(timestep.obs[i], obs[agent])
    np.testing.assert_allclose(timestep.reward, [rewards[agent] for agent in original.agents])
    total = float(sum(rewards.values()))
    assert float(env.team_reward(timestep.reward)) == pytest.approx(total, rel=1e-5)
    robots = np.asarray(first.state[:20]).reshape(2, 10)
    np.testing.assert_allclose(robots[:, :2], np.asarray(state.pos) / 11, rtol=1e-6)
    assert not robots[:, 6:].any()
    assert first.state.shape == (20 + 81,)
