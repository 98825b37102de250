"""The recurrent agent."""

from dataclasses import replace

import jax
import numpy as np
import oracles
import pytest
import samples

from qmix_jax.agents import base, gru


def test_parameter_count_of_the_papers_agent():
    """SMAC 3m: 30 observation features, 9 actions, 3 agents: 42 inputs, hidden 64."""
    spec = replace(
        samples.SPEC,
        agent_names=("a", "b", "c"),
        n_actions=(9, 9, 9),
        obs_shapes=((30,),) * 3,
        obs_shape=(30,),
    )
    params = jax.eval_shape(gru.make(gru.Config(), spec).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 28_169


@pytest.mark.parametrize("form", samples.FORMS)
def test_online_and_target_utilities_agree_with_a_loop(form):
    agent = gru.make(gru.Config(hidden=6), samples.SPEC)
    params, target_params = (samples.params(agent.init, seed) for seed in (0, 1))
    trajectory = samples.batch(form).trajectory
    pair = base.unroll_pair(agent, params, target_params, trajectory)
    for q, parameters in zip(pair, (params, target_params), strict=True):
        expected = oracles.utilities(oracles.double(parameters), trajectory)
        np.testing.assert_allclose(q, expected, rtol=1e-4, atol=1e-6)


def test_no_gradient_flows_into_the_target_utilities():
    agent = gru.make(gru.Config(hidden=6), samples.SPEC)
    params, trajectory = samples.params(agent.init), samples.batch("segment").trajectory

    def total(target_params):
        return base.unroll_pair(agent, params, target_params, trajectory)[1].sum()

    for leaf in jax.tree.leaves(jax.grad(total)(params)):
        np.testing.assert_array_equal(leaf, 0.0)
