"""The two-step game: every transition, and tables computed by hand."""

import itertools

import jax
import numpy as np
import pytest

from qmix_jax.envs import two_step

EXACT = {
    "State 1": (
        [[6.93, 6.93], [7.92, 7.92]],
        [[6.93, 6.93], [6.435, 6.435]],
        [[6.93, 4.455], [5.6925, 5.6925]],
    ),
    "2A": ([[7, 7], [7, 7]], [[7, 7], [7, 7]], [[7, 7], [7, 7]]),
    "2B": ([[0, 1], [1, 8]], [[-1.5, 2.5], [2.5, 6.5]], [[0.5, 4.5], [0.5, 4.5]]),
}


@pytest.mark.parametrize("actions", list(itertools.product(range(2), repeat=4)))
def test_every_pair_of_joint_actions(actions):
    env = two_step.make(two_step.Config())
    joint = np.array(actions, np.int32).reshape(2, 2)
    env_state, first = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(first.state, [1, 0, 0])
    env_state, second = env.step(jax.random.key(1), env_state, joint[0])
    np.testing.assert_array_equal(second.obs, [[0, joint[0, 0] == 0, joint[0, 0] == 1]] * 2)
    assert not second.reward.any() and not second.terminated and not second.truncated
    _, last = env.step(jax.random.key(2), env_state, joint[1])
    table = EXACT["2B" if joint[0, 0] else "2A"][0]
    np.testing.assert_array_equal(last.reward, [table[joint[1, 0]][joint[1, 1]]] * 2)
    assert (bool(last.terminated), bool(last.truncated)) == (True, False)
    np.testing.assert_array_equal(last.state, second.state)


def test_exact_tables():
    points = two_step.make(two_step.Config()).game.decision_points
    assert [point.name for point in points] == list(EXACT)
    for i, point in enumerate(points):
        optimal, additive, independent = EXACT[point.name]
        np.testing.assert_allclose(point.optimal, optimal, rtol=1e-6)
        np.testing.assert_allclose(point.exact["additive"], additive, rtol=1e-6)
        np.testing.assert_allclose(point.exact["independent"], independent, rtol=1e-6)
        np.testing.assert_array_equal(point.state, np.eye(3)[i])
        np.testing.assert_array_equal(point.obs, np.eye(3)[[i, i]])


def test_tables_use_the_discount():
    point = two_step.make(two_step.Config(exact_gamma=0.5)).game.decision_points[0]
    np.testing.assert_allclose(point.optimal, [[3.5, 3.5], [4, 4]], rtol=1e-6)
    np.testing.assert_allclose(point.exact["additive"], [[3.5, 3.5], [3.25, 3.25]], rtol=1e-6)
    expected = [[3.5, 2.25], [2.875, 2.875]]
    np.testing.assert_allclose(point.exact["independent"], expected, rtol=1e-6)
