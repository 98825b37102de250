"""Measurements of the lab, by hand."""

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


def measured(joint, utilities, returns=(1.0, 0.0), free=None):
    tables = measure.GameTables(GAME, utilities, joint, None if free is None else [free])
    return measure.game_result("COORD", "toy", result(returns), tables)


AGREEING = np.array([[[0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
"""Utilities of two seeds: both agents prefer the second, then both the first action."""


def test_igm_violations_are_counted_by_brute_force():
    tables = np.array([[[0.0, 0.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]]])
    assert measure.igm_violations(tables, AGREEING) == 1
    assert measure.igm_violations(tables[::-1], AGREEING[:, ::-1]) == 1
    assert measure.igm_violations(np.zeros((2, 2, 2)), AGREEING) == 0, "ties are no violation"


def test_returns_come_from_the_last_evaluation():
    assert measured(None, [AGREEING], (1.04, 0.96, -0.0)).reached == {1.0: 2, 0.0: 1}


def test_errors_are_computed_from_the_mean_table():
    tables = np.array([[[1.0, 0.0], [0.0, 0.5]], [[1.0, 0.0], [0.0, 0.9]]])
    (point,) = measured([tables], [AGREEING]).points
    np.testing.assert_allclose(point.table, [[1.0, 0.0], [0.0, 0.7]])
    assert point.errors["optimal"] == pytest.approx(0.3)
    assert point.errors["additive"] == pytest.approx(0.5)


def test_the_unrestricted_value_is_averaged_over_seeds():
    tables = np.zeros((2, 2, 2))
    free = np.array([np.eye(2), 3 * np.eye(2)])
    (point,) = measured([tables], [AGREEING], free=free).points
    np.testing.assert_allclose(point.unrestricted, 2 * np.eye(2))
    without, with_free = (measured([tables], [AGREEING], free=x) for x in (None, free))
    assert pages.plain(with_free)["points"][0]["unrestricted"] == [[2.0, 0.0], [0.0, 2.0]]
    assert figures.tables([with_free], GAME) != figures.tables([without], GAME)


def test_without_joint_values_nothing_is_compared():
    (point,) = measured(None, [AGREEING]).points
    assert (point.table, point.violations, point.errors) == (None, None, {})


def test_page_and_picture_show_every_result():
    tables = np.array([[[1.0, 0.0], [0.0, 0.5]], [[1.0, 0.0], [0.0, 0.9]]])
    results = [measured([tables], [AGREEING]), measured(None, [AGREEING])]
    text = pages.markdown({"COORD": results}, {"COORD": GAME})
    assert "| toy | 1: 1, 0: 1 | 1 | 0.30 | 0.50 |" in text
    assert "| toy | 1: 1, 0: 1 | - | - | - | - |" in text
    assert "![Learnt joint values of COORD](COORD.png)" in text
    assert figures.tables(results, GAME).startswith(b"\x89PNG")
    assert pages.plain(results[0])["reached"] == [
        {"return": 1.0, "seeds": 1}, {"return": 0.0, "seeds": 1},
    ]  # fmt: skip


def untrained(*overrides):
    """A result of two members with random parameters."""
    mapping = composition.compose("agent=mlp", "agent.options.hidden=4", *overrides)
    cfg = qmix_jax.load_config(mapping)
    algorithm = program.make_algorithm(cfg, program.environment(cfg).spec)
    shapes = jax.eval_shape(algorithm.init, jax.eval_shape(jax.random.key, 0))
    rng = np.random.default_rng(0)
    draw = lambda x: rng.normal(size=(2, *x.shape)).astype(np.float32)  # noqa: E731
    return types.SimpleNamespace(config=cfg, parameters=jax.tree.map(draw, shapes))


UNEVEN = ("env=matrix", "env.options.game=null", "env.options.payoff=[[1,2,3,4],[5,6,7,8]]")


def test_joint_tables_of_vdn_are_sums_of_utilities():
    result = untrained("algo=vdn", *UNEVEN, "hparams.reward_scale=1")
    tables = qmix_jax.game_tables(result)
    ((joint,), (utilities,)) = tables.joint, tables.utilities
    assert joint.shape == (2, 2, 4) and utilities.shape == (2, 2, 4)
    np.testing.assert_array_equal(np.isnan(utilities[0]), [[False] * 2 + [True] * 2, [False] * 4])
    first, second = utilities[:, 0, :2], utilities[:, 1]
    np.testing.assert_allclose(joint, first[:, :, None] + second[:, None], rtol=1e-5)
    assert len(np.unique(joint)) == joint.size, "every joint action is tabulated once"
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


def test_iql_has_utilities_and_no_joint_tables():
    tables = qmix_jax.game_tables(untrained("algo=iql", "env=two_step"))
    assert tables.joint is None and tables.unrestricted is None
    assert len(np.unique(tables.utilities)) == 24


def test_environments_without_decision_points_have_no_tables():
    assert qmix_jax.game_tables(untrained("env=predator_prey")) is None
