"""What the lab counts, by hand."""

import types

import jax
import numpy as np
import pytest

import qmix_jax
from qmix_jax import program
from qmix_jax.cli import composition
from qmix_jax.envs import matrix
from qmix_jax.lab import figures, measure, pages

GAME = matrix.make(matrix.Config(game="COORD")).game.decision_points


def result(returns):
    seeds = np.repeat(np.arange(len(returns)), 2)
    return types.SimpleNamespace(
        metrics={
            "seed": seeds,
            "env_steps": np.tile([0.0, 10.0], len(returns)),
            "eval/return": np.ravel([[9.0, value] for value in returns]),
        }
    )


def cell(joint, utilities, returns=(1.0, 0.0), free=None):
    learnt = measure.GameTables(GAME, utilities, joint, None if free is None else [free])
    return measure.cell("COORD", "toy", result(returns), learnt)


AGREEING = np.array([[[0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
"""Utilities of two seeds: both agents prefer the second, then both the first action."""


def test_igm_is_counted_by_brute_force():
    tables = np.array([[[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]]])
    assert measure.violations(tables, AGREEING) == 1
    assert measure.violations(tables[::-1], AGREEING[:, ::-1]) == 1
    assert measure.violations(np.zeros((2, 2, 2)), AGREEING) == 0, "ties are no violation"


def test_returns_are_those_of_the_last_evaluation():
    assert cell(None, [AGREEING], (1.04, 0.96, -0.0)).reached == {1.0: 2, 0.0: 1}


def test_errors_are_those_of_the_mean_table():
    tables = np.array([[[1.0, 0.0], [0.0, 0.5]], [[1.0, 0.0], [0.0, 0.9]]])
    (point,) = cell([tables], [AGREEING]).points
    np.testing.assert_allclose(point.table, [[1.0, 0.0], [0.0, 0.7]])
    assert point.errors["optimal"] == pytest.approx(0.3)
    assert point.errors["additive"] == pytest.approx(0.5)


def test_the_unrestricted_value_is_a_mean_too():
    tables = np.zeros((2, 2, 2))
    free = np.array([np.eye(2), 3 * np.eye(2)])
    (point,) = cell([tables], [AGREEING], free=free).points
    np.testing.assert_allclose(point.unrestricted, 2 * np.eye(2))
    bare, drawn = (cell([tables], [AGREEING], free=one) for one in (None, free))
    assert pages.plain(drawn)["points"][0]["unrestricted"] == [[2.0, 0.0], [0.0, 2.0]]
    assert figures.tables([drawn], GAME) != figures.tables([bare], GAME)


def test_without_a_joint_value_there_is_nothing_to_compare():
    (point,) = cell(None, [AGREEING]).points
    assert (point.table, point.violations, point.errors) == (None, None, {})


def test_page_and_picture_show_every_cell():
    tables = np.array([[[1.0, 0.0], [0.0, 0.5]], [[1.0, 0.0], [0.0, 0.9]]])
    cells = [cell([tables], [AGREEING]), cell(None, [AGREEING])]
    text = pages.markdown({"COORD": cells}, {"COORD": GAME})
    assert "| toy | 1: 1, 0: 1 | 1 | 0.30 | 0.50 |" in text
    assert "| toy | 1: 1, 0: 1 | - | - | - | - |" in text
    assert "![Learnt joint values of COORD](COORD.png)" in text
    assert figures.tables(cells, GAME).startswith(b"\x89PNG")
    assert pages.plain(cells[0])["reached"] == [
        {"return": 1.0, "seeds": 1}, {"return": 0.0, "seeds": 1},
    ]  # fmt: skip


def untrained(*overrides):
    """A result of two members with random parameters, and its algorithm."""
    mapping = composition.compose("agent=mlp", "agent.options.hidden=4", *overrides)
    cfg = qmix_jax.load_config(mapping)
    made = program.make_algorithm(cfg, program.environment(cfg).spec)
    shapes = jax.eval_shape(made.init, jax.eval_shape(jax.random.key, 0))
    rng = np.random.default_rng(0)
    draw = lambda x: rng.normal(size=(2, *x.shape)).astype(np.float32)  # noqa: E731
    return types.SimpleNamespace(config=cfg, parameters=jax.tree.map(draw, shapes))


UNEVEN = ("env=matrix", "env.options.game=null", "env.options.payoff=[[1,2,3,4],[5,6,7,8]]")


def test_tables_of_a_sum_are_sums_of_its_utilities():
    one = untrained("algo=vdn", *UNEVEN, "hparams.reward_scale=1")
    tables = qmix_jax.game_tables(one)
    ((joint,), (utilities,)) = tables.joint, tables.utilities
    assert joint.shape == (2, 2, 4) and utilities.shape == (2, 2, 4)
    np.testing.assert_array_equal(np.isnan(utilities[0]), [[False] * 2 + [True] * 2, [False] * 4])
    first, second = utilities[:, 0, :2], utilities[:, 1]
    np.testing.assert_allclose(joint, first[:, :, None] + second[:, None], rtol=1e-5)
    assert len(np.unique(joint)) == joint.size, "nothing is tabulated twice"
    assert [point.name for point in tables.points] == ["payoff"] and tables.unrestricted is None
    scaled = qmix_jax.game_tables(untrained("algo=vdn", *UNEVEN, "hparams.reward_scale=4"))
    np.testing.assert_allclose(4 * scaled.joint[0], joint, rtol=1e-6)
    np.testing.assert_allclose(4 * scaled.utilities[0], utilities, rtol=1e-6)


def test_each_state_has_its_own_tables():
    tables = qmix_jax.game_tables(untrained("algo=cw_qmix", "env=two_step"))
    for arrays in (tables.joint, tables.unrestricted):
        assert [table.shape for table in arrays] == [(2, 2, 2)] * 3
        assert len(np.unique(arrays)) == 24
    assert [utilities.shape for utilities in tables.utilities] == [(2, 2, 2)] * 3


def test_without_a_joint_value_there_are_utilities_alone():
    tables = qmix_jax.game_tables(untrained("algo=iql", "env=two_step"))
    assert tables.joint is None and tables.unrestricted is None
    assert len(np.unique(tables.utilities)) == 24


def test_other_environments_have_no_tables():
    assert qmix_jax.game_tables(untrained("env=predator_prey")) is None
