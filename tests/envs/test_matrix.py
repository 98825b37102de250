"""Named games, their exact fits, and user-defined payoffs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax import config
from qmix_jax.envs import base, matrix

PAYOFFS = {
    "Q3": [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]],
    "HARD": [[8, -12, -12], [-12, 6, 0], [-12, 0, 6]],
    "P2": [[12, -0.1, -0.1], [-0.1, 0, 0], [-0.1, 0, 0]],
    "G104": [[10.4, 0, 10], [0, 10, 10], [10, 10, 10]],
    "CLIMB": [[11, -30, 0], [-30, 7, 6], [0, 0, 5]],
    "PEN": [[-25, 0, 10], [0, 2, 0], [10, 0, -25]],
    "COORD": [[1, 0], [0, 1]],
    "2B": [[0, 1], [1, 8]],
}
ADDITIVE = {
    "Q3": [[-6.222, -4.889, -4.889], [-4.889, -3.556, -3.556], [-4.889, -3.556, -3.556]],
    "HARD": [[-7.556, -4.222, -4.222], [-4.222, -0.889, -0.889], [-4.222, -0.889, -0.889]],
    "P2": [[6.578, 2.611, 2.611], [2.611, -1.356, -1.356], [2.611, -1.356, -1.356]],
    "G104": [[5.778, 5.644, 8.978], [5.644, 5.511, 8.844], [8.978, 8.844, 12.178]],
    "CLIMB": [[-9.222, -10.556, 0.778], [-8.556, -9.889, 1.444], [-1.222, -2.556, 8.778]],
    "PEN": [[-6.889, -1.222, -6.889], [-1.222, 4.444, -1.222], [-6.889, -1.222, -6.889]],
    "COORD": [[0.5, 0.5], [0.5, 0.5]],
    "2B": [[-1.5, 2.5], [2.5, 6.5]],
}


def _team_reward(env, timestep):
    """The team reward, which every agent receives."""
    assert (timestep.reward == timestep.reward[..., :1]).all()
    return np.asarray(env.team_reward(timestep.reward))


def _rewards(env):
    """The reward of every joint action, in the shape of the payoff."""
    env_state, _ = env.reset(jax.random.key(0))
    joint = np.array(list(itertools.product(*map(range, env.spec.actions.sizes))), np.int32)
    step = jax.vmap(lambda actions: env.step(jax.random.key(1), env_state, actions)[1])
    timestep = step(joint)
    assert timestep.terminated.all()
    assert not timestep.truncated.any()
    return _team_reward(env, timestep).reshape(env.spec.actions.sizes)


@pytest.mark.parametrize("game", PAYOFFS)
def test_named_games_have_the_published_payoffs(game):
    env = matrix.make(matrix.Config(game=game, penalty=-25.0))
    np.testing.assert_allclose(_rewards(env), PAYOFFS[game], rtol=1e-6)
    np.testing.assert_allclose(env.game.decision_points[0].optimal, PAYOFFS[game], rtol=1e-6)


@pytest.mark.parametrize("game", ADDITIVE)
def test_additive_fits_of_named_games(game):
    (point,) = matrix.make(matrix.Config(game=game, penalty=-25.0)).game.decision_points
    np.testing.assert_allclose(point.exact["additive"], ADDITIVE[game], atol=6e-4)


@pytest.mark.parametrize(
    ("penalty", "corner", "edge", "centre"),
    [(0.0, 4.222, 1.556, -1.111), (-100.0, -40.222, -9.556, 21.111)],
)
def test_additive_fits_of_the_penalty_game(penalty, corner, edge, centre):
    (point,) = matrix.make(matrix.Config(game="PEN", penalty=penalty)).game.decision_points
    expected = [[corner, edge, corner], [edge, centre, edge], [corner, edge, corner]]
    np.testing.assert_allclose(point.exact["additive"], expected, atol=6e-4)


@pytest.mark.parametrize(
    ("game", "penalty", "best", "reached"),
    [
        ("Q3", 0, 8, {0}),
        ("HARD", 0, 8, {0, 6}),
        ("P2", 0, 12, {12}),
        ("G104", 0, 10.4, {10}),
        ("CLIMB", 0, 11, {5}),
        ("PEN", 0, 10, {0, 10}),
        ("PEN", -25, 10, {2}),
        ("PEN", -100, 10, {2}),
        ("COORD", 0, 1, {0, 1}),
        ("2B", 0, 8, {8}),
    ],
)
def test_optima_and_the_payoffs_of_additive_learners(game, penalty, best, reached):
    """Ties in the fit leave several payoffs."""
    (point,) = matrix.make(matrix.Config(game=game, penalty=penalty)).game.decision_points
    fit = point.exact["additive"]
    assert point.optimal.max() == pytest.approx(best)
    assert set(point.optimal[np.isclose(fit, fit.max())].tolist()) == reached


def test_every_named_game_is_tested():
    assert set(matrix.GAMES) == set(PAYOFFS) == set(ADDITIVE)


@pytest.mark.parametrize(("game", "error"), [("Q3", 455.11), ("HARD", 580.44), ("COORD", 1.0)])
def test_squared_error_of_the_additive_fit(game, error):
    (point,) = matrix.make(matrix.Config(game=game)).game.decision_points
    assert np.square(point.exact["additive"] - point.optimal).sum() == pytest.approx(
        error, abs=0.01
    )


def test_independent_values_are_row_and_column_means():
    (point,) = matrix.make(matrix.Config(game="Q3")).game.decision_points
    np.testing.assert_allclose(point.exact["independent"], [[-5.3333, -4, -4]] * 2, atol=1e-4)
    (point,) = matrix.make(matrix.Config(game="CLIMB")).game.decision_points
    expected = [[-19 / 3, -17 / 3, 5 / 3], [-19 / 3, -23 / 3, 11 / 3]]
    np.testing.assert_allclose(point.exact["independent"], expected, rtol=1e-6)


def test_additive_fit_is_least_squares_for_three_agents():
    table = np.random.default_rng(0).normal(size=(2, 3, 4))
    cells = list(np.ndindex(table.shape))
    design = np.array(
        [
            [a == i for i in range(2)] + [b == i for i in range(3)] + [c == i for i in range(4)]
            for a, b, c in cells
        ],
        float,
    )
    values, *_ = np.linalg.lstsq(design, table.ravel(), rcond=None)
    np.testing.assert_allclose(base.additive_fit(table).ravel(), design @ values, atol=1e-12)


def test_agents_may_have_different_numbers_of_actions():
    payoff = [[1, 2, 3], [4, 5, 7]]
    env = matrix.make(matrix.Config.model_validate({"game": None, "payoff": payoff}))
    assert env.spec.actions.sizes == (2, 3)
    assert env.spec.agent_groups == (0, 1)
    np.testing.assert_array_equal(_rewards(env), payoff)
    _, timestep = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(timestep.avail_actions, [[True, True, False], [True] * 3])
    (point,) = env.game.decision_points
    np.testing.assert_array_equal(np.isnan(point.optimal), [[False] * 3, [False] * 3, [True] * 3])
    np.testing.assert_allclose(point.exact["independent"], [[2, 16 / 3, np.nan], [2.5, 3.5, 5]])


def test_three_agents_play_a_cube():
    payoff = np.arange(8.0).reshape(2, 2, 2)
    env = matrix.make(matrix.Config.model_validate({"game": None, "payoff": payoff.tolist()}))
    np.testing.assert_array_equal(_rewards(env), payoff)
    assert env.game.decision_points[0].exact["independent"].shape == (3, 2)


def test_observations_are_ones():
    env = matrix.make(matrix.Config(obs_size=7))
    _, timestep = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(timestep.obs, np.ones((2, 7)))
    np.testing.assert_array_equal(timestep.state, np.ones(7))
    (point,) = env.game.decision_points
    np.testing.assert_array_equal(point.obs, timestep.obs)
    np.testing.assert_array_equal(point.state, timestep.state)
    assert jnp.asarray(point.optimal).dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"payoff": ((1, 2), (3, 4))}, "both set; to play payoff set game=null"),
        ({"game": None}, "both null"),
    ],
)
def test_exactly_one_of_game_and_payoff(options, message):
    with pytest.raises(config.ConfigError, match=message):
        matrix.make(matrix.Config.model_validate(options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": None, "payoff": [[1, 2], [3]]}, "options.payoff.*equal length"),
        ({"game": None, "payoff": [1, 2]}, "options.payoff.*nested once per agent"),
        ({"game": None, "payoff": [["1", "2"]]}, "options.payoff.*must be numbers"),
        ({"game": None, "payoff": [[1.0, float("inf")]]}, "options.payoff.*finite"),
        ({"penalty": 1.0}, "options.penalty.*less than or equal to 0"),
        ({"game": "CLIMBING"}, "options.game.*'CLIMB'"),
    ],
)
def test_invalid_options_are_refused_by_path(options, message):
    with pytest.raises(config.ConfigError, match=message):
        config.load({"env": {"name": "matrix", "options": options}})


def test_a_payoff_survives_a_round_trip():
    options = {"game": None, "payoff": [[1, 2], [3, 4.5]]}
    loaded = config.load({"env": {"name": "matrix", "options": options}})
    assert config.load(config.dump(loaded)) == loaded
    assert hash(config.load(config.dump(loaded))) == hash(loaded)
