"""The recurrent agents."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import samples

from qmix_jax.agents import base, gru
from qmix_jax.types import Discrete


def test_parameter_count_of_the_papers_agent():
    """SMAC 3m: 30 observation features, 9 actions, 3 agents: 42 inputs, hidden 64."""
    spec = replace(
        samples.SPEC,
        agent_names=("a", "b", "c"),
        actions=Discrete((9, 9, 9)),
        obs_shapes=((30,),) * 3,
        obs_shape=(30,),
    )
    params = jax.eval_shape(gru.make(gru.Config(), spec, 9).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 28_169


@pytest.mark.parametrize("core", ["gru", "lstm"])
@pytest.mark.parametrize("form", samples.FORMS)
def test_online_and_target_networks_agree_with_a_loop(core, form):
    agent = samples.component("agents", core, {"hidden": 6})
    params, target_params = (samples.params(agent.init, seed) for seed in (0, 1))
    trajectory = samples.batch(form).trajectory
    pair = base.unroll_pair(agent, params, target_params, trajectory)
    alone = base.unroll(agent, params, trajectory)
    for outputs, parameters in zip((*pair, alone), (params, target_params, params), strict=True):
        expected, hidden = oracles.unroll(oracles.double(parameters), trajectory)
        np.testing.assert_allclose(outputs.head, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(outputs.hidden, hidden, rtol=1e-4, atol=1e-6)


def test_no_gradient_flows_into_the_target_network():
    agent = gru.make(gru.Config(hidden=6), samples.SPEC, 3)
    params, trajectory = samples.params(agent.init), samples.batch("segment").trajectory

    def total(target_params):
        _, target = base.unroll_pair(agent, params, target_params, trajectory)
        return target.head.sum() + target.hidden.sum()

    for leaf in jax.tree.leaves(jax.grad(total)(params)):
        np.testing.assert_array_equal(leaf, 0.0)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        *((form, {}) for form in samples.FORMS),
        ("segment", {"sharing": "none", "layer_norm": True, "embed_layers": 2}),
    ],
)
def test_stacked_networks_give_the_same_outputs_and_gradients(form, options):
    """The gradient reaches only the online parameters, in both formulations."""
    trajectory = samples.batch(form).trajectory
    results = {}
    for unroll in ("sequential", "stacked"):
        agent = samples.component("agents", "gru", {"hidden": 8, "unroll": unroll, **options})
        params, target = samples.params(agent.init), samples.params(agent.init, seed=1)

        def objective(params, target, agent=agent):
            pair = base.unroll_pair(agent, params, target, trajectory)
            return sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(pair)), pair

        results[unroll] = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))(params, target)
    (online_grad, target_grad), values = results["stacked"]
    for actual, expected in zip(
        jax.tree.leaves((online_grad, values)),
        jax.tree.leaves((results["sequential"][0][0], results["sequential"][1])),
        strict=True,
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    for leaf in jax.tree.leaves((target_grad, results["sequential"][0][1])):
        np.testing.assert_array_equal(leaf, 0.0)


@pytest.mark.parametrize(("core", "sharing"), [("gru", "all"), ("lstm", "none")])
def test_in_bfloat16_rounds_products_and_returns_float32(core, sharing):
    plain = samples.component("agents", core, {"hidden": 8, "sharing": sharing})
    low = base.in_bfloat16(plain)
    params, trajectory = samples.params(plain.init), samples.batch("segment").trajectory

    def objective(params, agent):
        q = base.unroll(agent, params, trajectory).head
        return jnp.sum(jnp.square(q)), q

    gradient = jax.jit(jax.grad(objective, has_aux=True), static_argnums=1)
    (grads, q), (exact_grads, exact) = gradient(params, low), gradient(params, plain)
    assert q.dtype == jnp.float32 and {leaf.dtype for leaf in jax.tree.leaves(grads)} == {q.dtype}
    assert 1e-4 < np.abs(q - exact).max() / np.abs(exact).max() < 0.05
    for low_grad, exact in zip(jax.tree.leaves(grads), jax.tree.leaves(exact_grads), strict=True):
        assert np.linalg.norm(low_grad - exact) < 0.05 * np.linalg.norm(exact)
    dots = str(jax.make_jaxpr(lambda p: objective(p, low)[0])(params))
    assert not re.search(r"f32\S* = dot_general", dots)
