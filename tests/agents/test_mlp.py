"""The feed-forward agent."""

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import samples

from qmix_jax.agents import mlp


@pytest.mark.parametrize("layers", [1, 3])
def test_agrees_with_a_loop(layers):
    agent = mlp.make(mlp.Config(hidden=6, layers=layers, last_action=True), samples.SPEC, 3)
    params, obs = samples.params(agent.init), samples.batch("segment").trajectory.obs[:2]
    prev_actions = np.array([[[-1, -1]] * 3, [[2, 1]] * 3], np.int32)
    observed = samples.observed(obs, prev_actions, jnp.zeros((2, 3), bool))
    _, q, hidden = agent.unroll(params, (), observed)
    for t, b, i in np.ndindex(2, 3, 2):
        previous = oracles.one_hot(prev_actions[t, b, i], 3)
        x = np.concatenate([obs[t, b, i], previous, oracles.one_hot(i, 2)])
        for layer in range(layers):
            x = oracles.relu(oracles.dense(params[f"hidden_{layer}"], x))
        np.testing.assert_allclose(hidden[t, b, i], x, rtol=1e-5, atol=1e-6)
        expected = oracles.dense(params["head"], x)
        np.testing.assert_allclose(q[t, b, i], expected, rtol=1e-5, atol=1e-6)


def test_has_no_memory():
    agent = mlp.make(mlp.Config(hidden=6), samples.SPEC, 3)
    params, trajectory = samples.params(agent.init), samples.batch("segment").trajectory
    prev_actions = jnp.zeros(trajectory.obs.shape[:3], jnp.int32)
    obs, reset = trajectory.obs, trajectory.reset
    q = agent.unroll(params, (), samples.observed(obs, prev_actions, reset))[1]
    backwards = agent.unroll(params, (), samples.observed(obs[::-1], prev_actions, reset[::-1]))[1]
    np.testing.assert_allclose(backwards[::-1], q, rtol=1e-5, atol=1e-6)
