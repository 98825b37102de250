"""What the lab counts, by hand."""

import types

import numpy as np
import pytest

from qmix_jax.envs import matrix
from qmix_jax.laboratory import figures, measure, page

GAME = matrix.make(matrix.Config(game="COORD")).decision_points


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
    learnt = measure.Learnt(joint, None if free is None else [free], utilities)
    return measure.cell("COORD", "toy", result(returns), GAME, learnt)


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
    assert page.plain(drawn)["points"][0]["unrestricted"] == [[2.0, 0.0], [0.0, 2.0]]
    assert figures.tables([drawn], GAME) != figures.tables([bare], GAME)


def test_without_a_joint_value_there_is_nothing_to_compare():
    (point,) = cell(None, [AGREEING]).points
    assert (point.table, point.violations, point.errors) == (None, None, {})


def test_page_and_picture_show_every_cell():
    tables = np.array([[[1.0, 0.0], [0.0, 0.5]], [[1.0, 0.0], [0.0, 0.9]]])
    cells = [cell([tables], [AGREEING]), cell(None, [AGREEING])]
    text = page.markdown({"COORD": cells}, {"COORD": GAME})
    assert "| toy | 1: 1, 0: 1 | 1 | 0.30 | 0.50 |" in text
    assert "| toy | 1: 1, 0: 1 | - | - | - | - |" in text
    assert "![Learnt joint values of COORD](COORD.png)" in text
    assert figures.tables(cells, GAME).startswith(b"\x89PNG")
    assert page.plain(cells[0])["reached"] == [
        {"return": 1.0, "seeds": 1}, {"return": 0.0, "seeds": 1},
    ]  # fmt: skip
