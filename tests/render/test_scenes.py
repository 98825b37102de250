"""Scenes and painters, compared with the games."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax import config, program
from qmix_jax.cli import composition
from qmix_jax.envs import base as envs
from qmix_jax.render import base, battle, build, cells, kitchen, pictures


def environment(*overrides):
    return program.environment(config.load(composition.compose(*overrides)))


def played(env, policy, look, steps, seed=0):
    """One episode: (recorded arrays [T+1, ...], actions [T, N], steps until the end)."""
    played_env = envs.with_policy(env, policy)

    def body(carry, key):
        state, ended, memory = carry
        key_act, key_step = jax.random.split(key)
        actions, memory = policy.act(key_act, state.env_state, state.timestep, memory)
        after, timestep = env.step(key_step, state.env_state, actions)
        seat = type(state)(env_state=after, timestep=timestep, memory=memory)
        recorded = (look(after), actions, ~ended)
        return (seat, ended | timestep.terminated | timestep.truncated, memory), recorded

    def run(key):
        first, _ = played_env.reset(key)
        memory = jax.tree.map(jnp.asarray, policy.initial)
        start = (first, jnp.zeros((), bool), memory)
        _, (later, actions, running) = jax.lax.scan(body, start, jax.random.split(key, steps))
        start = look(first.env_state)
        recorded = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, later)
        return recorded, actions, running.sum()

    return jax.tree.map(np.asarray, jax.jit(run)(jax.random.key(seed)))


@pytest.mark.slow
def test_drawn_shots_are_exactly_those_that_do_damage():
    env = environment("env=smax")
    scene, _, steps = played(env, env.game.heuristic, env.presentation.scene.arrays, 60)
    scene = {name: values[: steps + 1] for name, values in scene.items()}
    fired = ~np.isnan(battle._fired(scene, env.presentation.scene.constants))
    shots = np.zeros(scene["health"][1:].shape)
    for step, unit in zip(*np.nonzero(fired), strict=True):
        target = scene["target"][step + 1][unit]
        assert (target < 3) != (unit < 3), "no unit shoots at its team"
        shots[step, target] += 1
    lost = (scene["health"][:-1] - scene["health"][1:]) * 45
    assert shots.sum() > 10
    np.testing.assert_array_equal(shots > 0, lost > 0)
    survives = scene["health"][1:] > 0
    np.testing.assert_allclose(lost[survives], 9.0 * shots[survives], atol=1e-3)


@pytest.mark.slow
def test_a_transcript_of_hanabi_agrees_with_the_game():
    env = environment("env=hanabi", "env.options.kwargs.num_agents=3")
    look = lambda state: state  # noqa: E731
    states, actions, steps = played(
        env, envs.uniform_policy(env.spec.actions), look, env.spec.max_steps, seed=3
    )
    episode = base.Episode(env.spec, states, None, actions[:steps], np.zeros(steps), "finished", {})
    texts = [env.presentation.describe(episode.frame(step)) for step in range(steps + 1)]
    moves = [text.splitlines()[0] for text in texts]
    last = jax.tree.map(lambda x: x[steps], states)
    assert sum("it fits" in move for move in moves) == last.fireworks.sum()
    assert sum("a life is lost" in move for move in moves) == 3 - last.life_tokens.sum()
    for name, colour in zip("RYGWB", last.fireworks, strict=True):
        assert f"{name}{int(colour.sum()) or '-'}" in texts[-1].splitlines()[1]
    for step, move in enumerate(moves[1:]):
        assert move.startswith(env.spec.agent_names[step % 3]), "in turn"
    hints = [i for i, move in enumerate(moves) if " tells " in move]
    assert hints
    for number in hints:
        _, whom, _, what = moves[number].replace(" of every ", " of ").split(" ", 1)[1].split(" ")
        before, after = texts[number - 1], texts[number]
        (hand,) = [line for line in after.splitlines() if whom in line and "knows" in line]
        cards, known = (part.split() for part in hand[2:].split("knows"))
        for card, hinted in zip(cards[1:], known, strict=True):
            assert (what in card) == (what in hinted) or what not in hinted, before
            assert what not in card or what in hinted


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mpe_spread", "mpe_speaker_listener", "overcooked_v2", "coin_game"]
)
def test_other_environments_of_a_suite_are_drawn(name):
    env = environment(f"env={name}")
    assert env.presentation.scene is not None
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    scene = jax.tree.map(lambda x: np.asarray(x)[None], env.presentation.scene.arrays(state))
    nothing = np.zeros((0, env.spec.n_agents), np.int32)
    episode = base.Episode(env.spec, None, scene, nothing, np.zeros(0), "finished", {})
    painter = build._PAINTERS[env.presentation.scene.painter](
        episode, env.presentation.scene.constants
    )
    picture = np.asarray(pictures.animate(episode, painter).frame(0))[40:]
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 8, "not blank"


def test_mmdp_describes_its_state():
    env = environment("env=mmdp")
    states = jax.tree.map(lambda x: x[None], env.reset(jax.random.key(0))[0])
    episode = base.Episode(env.spec, states, None, np.zeros((0, 2)), np.zeros(0), "finished", {})
    assert env.presentation.describe(episode.frame(0)) == "start\nstate A"


@pytest.mark.slow
def test_overcooked_uses_the_encoding_of_overcooked_v2():
    env = environment("env=overcooked")
    state, _ = env.reset(jax.random.key(0))
    tiles = env.presentation.scene.constants["tiles"]
    ((y, x),) = np.argwhere(tiles == kitchen.POT)
    kinds = {"counter": kitchen.COUNTER, "hatch": kitchen.HATCH, "plates": kitchen.PLATES}
    assert all((tiles == kind).any() for kind in kinds.values())
    maze = np.asarray(state.kitchen.maze_map)
    pad = (maze.shape[0] - tiles.shape[0]) // 2
    for status, inside, timer in ((23, 0, 0), (21, 8, 0), (20, 12, 0), (5, 12, 5), (0, 14, 0)):
        maze = np.array(state.kitchen.maze_map)
        maze[pad + y, pad + x, 2] = status
        changed = type(state)(
            kitchen=state.kitchen.replace(maze_map=jnp.asarray(maze)),
            sparse=state.sparse,
            shaped=state.shaped,
        )
        scene = env.presentation.scene.arrays(changed)
        assert (int(scene["lying"][y, x]), int(scene["timer"][y, x])) == (inside, timer)
        assert int(scene["lying"].sum()) == inside, "no object lies elsewhere"


def test_ingredients_are_decoded_from_bits():
    assert kitchen._ingredients(3 | 2 << 2 | 1 << 4) == [0, 0, 1]
    assert kitchen._ingredients(1) == []


def test_interpolation_between_steps():
    assert base.interpolation(0.0) == (0, 0, 1.0)
    assert base.interpolation(2.0) == (1, 2, 1.0)
    assert base.interpolation(2.25) == (2, 3, 0.25)
    np.testing.assert_allclose(base.interpolation(0.25).mix(np.array([0.0, 4.0])), 1.0)


def test_a_piece_that_crosses_the_edge_of_a_board_jumps():
    path = np.array([[[0, 0], [1, 1]], [[2, 0], [1, 2]]])
    np.testing.assert_allclose(cells._move(path, base.interpolation(0.5)), [[2, 0], [1, 1.5]])


def test_pieces_of_one_cell_are_side_by_side():
    positions = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.0, 2.0]])
    there = np.array([True, True, False, True])
    spread = cells._spread(positions, there)
    np.testing.assert_allclose(spread, [[1, 0.82], [1, 1.18], [1, 1], [0, 2]])


@pytest.mark.parametrize(("length", "panels"), [(1, 2), (5, 6), (11, 12), (200, 12)])
def test_a_sheet_shows_the_first_and_the_last_step(length, panels):
    steps = pictures.sheet_steps(length)
    assert (steps[0], steps[-1], len(steps)) == (0, length, panels)
