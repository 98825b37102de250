"""Predator-prey by hand: catches, punishments, moves, freezing, masks and observations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax import config
from qmix_jax.envs import predator_prey

RIGHT, DOWN, LEFT, UP, STAY, CATCH = range(6)
OUT = (-9, -9)


@functools.cache
def make(**options):
    env = predator_prey.make(predator_prey.Config(**options))
    return env, jax.jit(env.step)


def small(agents, prey, actions, key=0, frozen=(), **options):
    """One step of four agents and two prey on a 5 x 5 grid; missing ones are frozen or caught."""
    _, step = make(size=5, n_agents=4, n_prey=2, max_steps=9, **options)
    agents, active = _filled(agents, 4)
    prey, alive = _filled(prey, 2)
    active[list(frozen)] = False
    state = predator_prey.PredatorPreyState(
        agents=agents, prey=prey, active=active, alive=alive, step=np.int32(0)
    )
    joint = np.array([*actions, *[STAY] * (4 - len(actions))], np.int32)
    return step(jax.random.key(key), state, joint)


def team_reward(timestep):
    """The team reward, which every agent receives."""
    (reward,) = set(np.asarray(timestep.reward).tolist())
    return reward


def _filled(places, n):
    rows = np.array([*places, *[OUT] * (n - len(places))], np.int32)
    return rows, np.arange(n) < len(places)


def test_two_agents_catch_and_are_frozen():
    after, timestep = small([(0, 1), (1, 0), (4, 4)], [(1, 1), (3, 0)], [CATCH, CATCH, STAY])
    assert team_reward(timestep) == 10
    np.testing.assert_array_equal(after.alive, [False, True])
    np.testing.assert_array_equal(after.active, [False, False, True, False])
    assert not timestep.terminated


def test_a_single_agent_is_punished_and_stays_active():
    after, timestep = small([(0, 1), (4, 4)], [(1, 1)], [CATCH, STAY])
    assert team_reward(timestep) == -2
    assert after.alive[0]
    assert after.active[:2].all()


def test_an_agent_is_punished_for_each_prey_it_tries_to_catch():
    _, timestep = small([(2, 2)], [(2, 1), (2, 3)], [CATCH])
    assert team_reward(timestep) == -4


def test_adjacent_agents_that_do_not_catch_stay_active():
    after, timestep = small([(0, 1), (1, 0), (1, 2)], [(1, 1)], [CATCH, STAY, CATCH])
    assert team_reward(timestep) == 10
    np.testing.assert_array_equal(after.active, [False, True, False, False])


def test_diagonal_neighbours_do_not_count():
    _, timestep = small([(0, 0), (0, 1)], [(1, 1)], [CATCH, CATCH])
    assert team_reward(timestep) == -2


def test_agents_frozen_by_one_catch_do_not_help_with_another():
    """Both agents are adjacent to both prey: the second prey is not caught."""
    after, timestep = small([(1, 1), (0, 2)], [(0, 1), (1, 2)], [CATCH, CATCH])
    assert team_reward(timestep) == 10
    assert after.alive.sum() == 1
    assert timestep.terminated, "no active agent is left"


def test_other_catchers_and_rewards():
    options = {"catchers": 3, "punishment": -0.5, "capture_reward": 4.0}
    _, timestep = small([(0, 1), (1, 0)], [(1, 1)], [CATCH, CATCH], **options)
    assert team_reward(timestep) == -0.5
    _, timestep = small([(0, 1), (1, 0), (1, 2)], [(1, 1)], [CATCH] * 3, **options)
    assert team_reward(timestep) == 4


def test_catching_all_prey_terminates():
    _, timestep = small([(0, 1), (1, 0), (4, 4)], [(1, 1)], [CATCH, CATCH, STAY])
    assert (bool(timestep.terminated), bool(timestep.truncated)) == (True, False)
    assert timestep.metrics["captures"] == 2  # the second prey counts as caught from the start


@pytest.mark.parametrize("key", range(4))
def test_prey_move_to_free_cells_on_the_grid(key):
    """The first prey has one free side; the second, in a corner, two."""
    after, _ = small([(0, 1), (1, 0), (1, 2)], [(1, 1), (4, 4)], [STAY] * 3, key)
    np.testing.assert_array_equal(after.prey[0], (2, 1))
    assert tuple(np.asarray(after.prey[1])) in {(3, 4), (4, 3)}


def test_enclosed_prey_stay_and_frozen_agents_do_not_block():
    around = [(0, 1), (1, 0), (1, 2), (2, 1)]
    after, _ = small(around, [(1, 1)], [STAY] * 4)
    np.testing.assert_array_equal(after.prey[0], (1, 1))
    after, _ = small(around, [(1, 1)], [STAY] * 4, frozen=[3])
    np.testing.assert_array_equal(after.prey[0], (2, 1))


def test_prey_move_in_all_directions_or_rest():
    def places(**options):
        return {
            tuple(np.asarray(small([(0, 0)], [(2, 2)], [STAY], key, **options)[0].prey[0]).tolist())
            for key in range(32)
        }

    assert places() == {(1, 2), (3, 2), (2, 1), (2, 3)}
    assert places(prey_rest=1.0) == {(2, 2)}


@pytest.mark.parametrize(
    ("action", "place"), [(RIGHT, (2, 3)), (DOWN, (3, 2)), (LEFT, (2, 1)), (UP, (1, 2))]
)
def test_agents_move_unless_the_cell_is_occupied(action, place):
    after, _ = small([(2, 2)], [(0, 0)], [action])
    np.testing.assert_array_equal(after.agents[0], place)
    for agents, prey in (([(2, 2), place], [(0, 0)]), ([(2, 2)], [place])):
        after, _ = small(agents, prey, [action])
        np.testing.assert_array_equal(after.agents[0], (2, 2))


def test_agents_move_in_random_order():
    """The second agent can enter the first's cell only if the first has moved."""
    places = {
        int(small([(2, 2), (2, 1)], [(0, 0)], [RIGHT, RIGHT], key)[0].agents[1, 1])
        for key in range(16)
    }
    assert places == {1, 2}


def test_masks():
    _, timestep = small([(0, 0), (2, 2), (2, 4)], [(2, 3)], [STAY] * 3, prey_rest=1.0)
    expected = np.zeros((4, 6), bool)
    expected[0, [RIGHT, DOWN, STAY]] = True
    expected[1] = True
    expected[2, [DOWN, LEFT, UP, STAY, CATCH]] = True
    expected[3, STAY] = True
    np.testing.assert_array_equal(timestep.avail_actions, expected)


def test_frozen_agents_do_nothing_and_observe_zeros():
    after, timestep = small([(2, 2), (2, 1)], [(2, 3)], [CATCH, RIGHT], frozen=[0], prey_rest=1.0)
    assert team_reward(timestep) == 0
    np.testing.assert_array_equal(after.agents[1], (2, 2)), "their cell is free"
    assert not timestep.obs[0].any()
    assert timestep.obs[1].any()


def test_observation_and_state_by_hand():
    _, timestep = small([(0, 0), (1, 2)], [(2, 1)], [STAY] * 2, prey_rest=1.0)
    view = np.asarray(timestep.obs).reshape(4, 5, 5, 3)
    assert sorted(map(tuple, np.argwhere(view[0]).tolist())) == [(2, 2, 0), (3, 4, 0), (4, 3, 1)]
    assert sorted(map(tuple, np.argwhere(view[1]).tolist())) == [(1, 0, 0), (2, 2, 0), (3, 1, 1)]
    grid = np.asarray(timestep.state).reshape(5, 5, 3)
    assert sorted(map(tuple, np.argwhere(grid).tolist())) == [(0, 0, 0), (1, 2, 0), (2, 1, 1)]


def test_the_published_task():
    spec = predator_prey.make(predator_prey.Config()).spec
    assert (spec.n_agents, spec.obs_shape, spec.actions.width) == (8, (75,), 6)
    assert (spec.state_size, spec.max_steps) == (300, 200)


def test_four_pairs_return_forty():
    """Each pair encloses its prey; the other four prey are out of reach."""
    _, step = make()
    columns = range(0, 10, 3)
    state = predator_prey.PredatorPreyState(
        agents=np.array([(row, column) for column in columns for row in (0, 2)], np.int32),
        prey=np.array([(row, column) for row in (1, 9) for column in columns], np.int32),
        active=np.ones(8, bool),
        alive=np.ones(8, bool),
        step=np.int32(0),
    )
    after, timestep = step(jax.random.key(0), state, jnp.full(8, CATCH))
    assert (team_reward(timestep), bool(timestep.terminated)) == (40.0, True)
    assert not after.active.any()
    assert timestep.metrics["captures"] == 4


def test_initial_positions_are_distinct_and_cover_the_grid():
    env, _ = make(size=5, n_agents=4, n_prey=2, max_steps=9)
    state, _ = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 64))
    cells = np.concatenate([state.agents, state.prey], axis=1) @ [5, 1]
    assert all(len(set(row)) == 6 for row in cells.tolist())
    assert set(cells.ravel().tolist()) == set(range(25))


def test_more_actors_than_cells_are_refused():
    with pytest.raises(config.ConfigError, match=r"need more than the 9 cells.*raise size"):
        make(size=3)
