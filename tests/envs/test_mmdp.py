"""The two-state process: every transition and its optimum."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax import config
from qmix_jax.envs import mmdp


@pytest.mark.parametrize("joint", list(itertools.product(range(2), repeat=2)))
def test_every_joint_action(joint):
    env = mmdp.make(mmdp.Config())
    state, first = env.reset(jax.random.key(0))
    np.testing.assert_array_equal(first.state, [1, 0])
    after, timestep = env.step(jax.random.key(1), state, jnp.array(joint))
    np.testing.assert_array_equal(timestep.reward, [joint == (0, 0)] * 2)
    np.testing.assert_array_equal(timestep.obs, [[joint != (1, 1), joint == (1, 1)]] * 2)
    _, later = env.step(jax.random.key(2), after, jnp.array([0, 0]))
    assert (later.reward == (joint != (1, 1))).all(), "B pays nothing and cannot be left"


def test_the_best_discounted_return_is_63_397():
    env = mmdp.make(mmdp.Config())

    def step(state, gamma_t):
        state, timestep = env.step(jax.random.key(0), state, jnp.array([0, 0]))
        reward = env.team_reward(timestep.reward)
        return state, (reward, gamma_t * reward, timestep.truncated)

    powers = 0.99 ** np.arange(100)
    _, (reward, discounted, truncated) = jax.lax.scan(
        step, env.reset(jax.random.key(0))[0], powers.astype(np.float32)
    )
    assert float(reward.sum()) == 100
    assert float(discounted.sum()) == pytest.approx(63.397, abs=1e-3)
    np.testing.assert_array_equal(np.flatnonzero(truncated), [99])


def test_exact_tables_solve_the_optimality_equation():
    (a, b) = mmdp.make(mmdp.Config()).game.decision_points
    best = a.optimal.max()
    np.testing.assert_allclose(a.optimal, [[1 + 0.99 * best, 0.99 * best], [0.99 * best, 0]])
    assert best == pytest.approx(100, rel=1e-6)
    assert not b.optimal.any()


def test_a_discount_of_one_is_refused():
    with pytest.raises(config.ConfigError, match="infinite values; set it below 1"):
        mmdp.make(mmdp.Config(exact_gamma=1.0))
