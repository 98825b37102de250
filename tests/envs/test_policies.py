"""Hand-written policies: uniform play, SMAX's heuristic, and environments played by a policy."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax import evaluate, rollout
from qmix_jax.envs import base, jaxmarl, mmdp
from qmix_jax.envs.jaxmarl import smax
from qmix_jax.types import Box, Discrete

UP, RIGHT, DOWN, LEFT, STOP, ATTACK = range(6)


def evaluated(env, episodes, key):
    """Means over episodes that the environment's policy plays."""
    idle = rollout.BoundPolicy(lambda carry, seen, key: (carry, 0 * seen.prev_actions, {}))
    carry = {"act": (), "learn": ()}
    setup = rollout.CollectorSetup(env, lambda batch_size: carry, rollout.Recording(), episodes)
    return evaluate.evaluate(setup, idle, key)


def test_uniform_play_covers_available_actions():
    policy = base.uniform_policy(Discrete((3, 3)))
    avail = jnp.array([[True, False, True], [False, True, False]])
    timestep = base.first_timestep(jnp.zeros((2, 1)), jnp.zeros(1), avail)
    act = jax.vmap(lambda key: policy.act(key, None, timestep, policy.initial)[0])
    actions = np.asarray(act(jax.random.split(jax.random.key(0), 400)))
    assert set(actions[:, 1].tolist()) == {1}
    assert set(actions[:, 0].tolist()) == {0, 2}
    assert 150 < (actions[:, 0] == 2).sum() < 250


def test_uniform_play_covers_the_box():
    policy = base.uniform_policy(Box((2, 2), -3.0, 1.0))
    act = jax.vmap(lambda key: policy.act(key, None, None, policy.initial)[0])
    actions = np.asarray(act(jax.random.split(jax.random.key(0), 400)))
    assert actions.shape == (400, 2, 2) and actions.dtype == np.float32
    assert -3 <= actions.min() < -2.9 and 0.9 < actions.max() <= 1
    np.testing.assert_allclose(actions.mean(axis=0), -1, atol=0.2)


def test_with_policy_carries_its_memory_and_resets_it():
    """The policy alternates between (0, 0), which pays 1, and (0, 1)."""
    env = mmdp.make(mmdp.Config(max_steps=5))

    def act(key, env_state, timestep, memory):
        return jnp.stack([jnp.zeros_like(memory), memory]), 1 - memory

    played = base.with_policy(env, base.HeuristicPolicy(0, act))
    result = evaluated(played, 3, jax.random.key(0))
    assert float(result["return"]) == 3


@pytest.fixture(scope="module")
def heuristic():
    """The policy of two marines against two: ranges 5, directions up, right, down, left."""
    team = (("marine", 2),)
    scenario = smax.composed_scenario(team, team)
    _, suite = smax.build("HeuristicEnemySMAX", {"scenario": scenario}, normalise=True)

    def decide(positions, in_range, target=(-1, -1), alive=(True,) * 4):
        arena = types.SimpleNamespace(
            unit_positions=jnp.array(positions, jnp.float32), unit_alive=jnp.array(alive)
        )
        can_move = np.array(alive[:2])[:, None].repeat(4, axis=1)
        avail = np.concatenate([can_move, np.ones((2, 1), bool), np.array(in_range, bool)], axis=1)
        timestep = base.first_timestep(jnp.zeros((2, 1)), jnp.zeros(1), jnp.asarray(avail))
        state = types.SimpleNamespace(state=arena)
        actions, target = suite.heuristic.act(None, state, timestep, jnp.array(target, jnp.int32))
        return actions.tolist(), target.tolist()

    return decide


NOBODY = [[False, False], [False, False]]
BOTH = [[True, True], [True, True]]


def test_units_attack_the_nearest_enemy_in_range(heuristic):
    positions = [(0, 0), (4, 0), (1, 0), (3, 0)]
    assert heuristic(positions, BOTH) == ([ATTACK, ATTACK + 1], [0, 1])
    assert heuristic(positions, [[False, True], [True, False]]) == ([ATTACK + 1, ATTACK], [1, 0])


def test_units_keep_their_target_while_it_is_in_range(heuristic):
    positions = [(0, 0), (4, 0), (1, 0), (3, 0)]
    assert heuristic(positions, BOTH, target=(1, 0)) == ([ATTACK + 1, ATTACK], [1, 0])
    only_first = [[True, False], [True, False]]
    assert heuristic(positions, only_first, target=(1, 1)) == ([ATTACK, ATTACK], [0, 0])


def test_units_walk_to_the_nearest_living_enemy(heuristic):
    positions = [(0, 0), (20, 20), (2, 9), (30, 20)]
    assert heuristic(positions, NOBODY, target=(0, 1)) == ([UP, RIGHT], [-1, -1])
    alive = (True, True, False, True)
    assert heuristic(positions, NOBODY, alive=alive)[0] == [RIGHT, RIGHT]
    assert heuristic([(9, 9), (9, 9), (9, 1), (1, 8)], NOBODY)[0] == [DOWN, DOWN]
    assert heuristic([(9, 9), (9, 9), (9, 0), (1, 8)], NOBODY)[0] == [LEFT, LEFT]


def test_dead_units_stop(heuristic):
    positions = [(0, 0), (4, 0), (1, 0), (3, 0)]
    dead = (False, True, True, True)
    in_range = [[False, False], [True, True]]
    assert heuristic(positions, in_range, alive=dead) == ([STOP, ATTACK + 1], [-1, 1])


@pytest.mark.slow
def test_the_heuristic_wins_battles():
    """A random policy wins none of these."""
    env = jaxmarl.make(jaxmarl.Config(scenario="3m"))
    played = base.with_policy(env, env.game.heuristic)
    run = jax.jit(lambda key: evaluated(played, 64, key))
    assert float(run(jax.random.key(0))["win_rate"]) > 0.3
