"""The monotonic mixing network."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import samples

from qmix_jax.mixers import base, qmix


def _apply(mixer, params, q, state):
    q = jnp.asarray(q, jnp.float32)
    inputs = base.MixerInputs(
        q_taken=q, q_greedy=q + 1.0, actions=jnp.zeros((*q.shape, 3)), state=jnp.asarray(state)
    )
    return jax.jit(mixer.apply)(params, inputs).q_tot


def _constant(value):
    """A layer over a state of one zero whose output is its bias."""
    bias = jnp.asarray(value, jnp.float32).ravel()
    return {"kernel": jnp.zeros((1, bias.size)), "bias": bias}


@pytest.fixture(scope="module")
def example():
    """(mixer, params) of two agents and two mixing units, weights set by hand."""
    spec = replace(samples.SPEC, state_size=1)
    mixer = qmix.make(qmix.Config(embed_dim=2, hypernet_layers=1), spec)
    params = {
        "w1": {"output": _constant([[1.0, -2.0], [0.5, 1.0]])},
        "b1": _constant([0.0, -5.0]),
        "w2": {"output": _constant([-1.0, 3.0])},
        "v": {
            "hidden": _constant([0.0, 0.0]),
            "output": {"kernel": jnp.zeros((2, 1)), "bias": jnp.array([0.5])},
        },
    }
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(mixer.init, jax.random.key(0)))
    assert shapes == jax.tree.map(jnp.shape, params)
    return mixer, params


def test_by_hand(example):
    """|w1| = [[1, 2], [0.5, 1]]: 1*1 + 2*0.5 = 2 and 1*2 + 2*1 - 5 = -1 before the elu, then
    2 * |-1| + (exp(-1) - 1) * 3 + 0.5."""
    np.testing.assert_allclose(_apply(*example, [1.0, 2.0], [0.0]), 0.603638, atol=1e-6)


def test_utilities_and_biases_keep_their_sign(example):
    """1*-1 + 0.5*-2 = -2 and 2*-1 + 1*-2 - 5 = -9: elu(-2) + 3 elu(-9) - 0.7 < 0."""
    mixer, params = example
    output = {**params["v"]["output"], "bias": jnp.array([-0.7])}
    params = {**params, "v": {**params["v"], "output": output}}
    expected = (np.exp(-2.0) - 1.0) + 3.0 * (np.exp(-9.0) - 1.0) - 0.7
    np.testing.assert_allclose(_apply(mixer, params, [-1.0, -2.0], [0.0]), expected, rtol=1e-5)


@pytest.mark.parametrize("weight", ["abs", "softplus", "square"])
@pytest.mark.parametrize("options", [{"hypernet_layers": 1}, {}, {"layer_norm": True}])
def test_agrees_with_a_loop(weight, options):
    cfg = qmix.Config(embed_dim=3, hypernet_embed=4, weight=weight, **options)
    mixer = qmix.make(cfg, samples.SPEC)
    params = samples.params(mixer.init)
    rng = np.random.default_rng(0)
    q, state = 3.0 * samples.normal(rng, 20, 2), samples.normal(rng, 20, 5)
    expected = [oracles.qmix(oracles.double(params), q[i], state[i], weight) for i in range(20)]
    assert min(expected) < 0.0 < max(expected)
    np.testing.assert_allclose(_apply(mixer, params, q, state), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("layers", "count"), [(1, 9_441), (2, 17_761)])
def test_parameter_count_of_the_papers_mixer(layers, count):
    """SMAC 3m: 48 state features, 3 agents; 32 mixing units, hypernetworks of 64."""
    spec = replace(samples.SPEC, agent_names=("a", "b", "c"), state_size=48)
    init = qmix.make(qmix.Config(hypernet_layers=layers), spec).init
    params = jax.eval_shape(init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_layer_norm_sees_no_scale_and_no_offset_of_the_state():
    """Nor of the hidden layer of V; LayerNorm adds parameters for both."""
    cfg = qmix.Config(embed_dim=3, hypernet_embed=4, layer_norm=True)
    mixer = qmix.make(cfg, samples.SPEC)
    params = samples.params(mixer.init)
    rng = np.random.default_rng(0)
    q, state = samples.normal(rng, 20, 2), samples.normal(rng, 20, 5)
    expected = _apply(mixer, params, q, state)
    np.testing.assert_allclose(_apply(mixer, params, q, 9.0 * state - 4.0), expected, rtol=1e-3)
    v = {**params["v"], "hidden": jax.tree.map(lambda x: 9.0 * x, params["v"]["hidden"])}
    np.testing.assert_allclose(_apply(mixer, {**params, "v": v}, q, state), expected, rtol=1e-3)
    plain = qmix.make(qmix.Config(embed_dim=3, hypernet_embed=4), samples.SPEC)
    assert "state_norm" not in plain.init(jax.random.key(0))


def test_a_small_initial_scale_shrinks_the_output():
    rng = np.random.default_rng(0)
    q, state = 3.0 * samples.normal(rng, 50, 2), samples.normal(rng, 50, 5)

    def size(scale):
        cfg = qmix.Config(embed_dim=4, hypernet_layers=1, init_scale=scale)
        mixer = qmix.make(cfg, samples.SPEC)
        return np.abs(_apply(mixer, jax.jit(mixer.init)(jax.random.key(0)), q, state)).max()

    assert size(1e-3) < 2e-3 < 0.1 < size(1.0)


def test_with_zero_mixing_weights_the_output_is_v():
    """V has all of the gradient in the state, and the utilities have none."""
    mixer = qmix.make(qmix.Config(embed_dim=3, hypernet_embed=4), samples.SPEC)
    params = samples.params(mixer.init)
    params = {**params, "w2": jax.tree.map(jnp.zeros_like, params["w2"])}
    state, q = jax.random.normal(jax.random.key(1), (5,)), jnp.array([2.0, -1.0])

    def v(state):
        hidden = jax.nn.relu(oracles.dense(params["v"]["hidden"], state))
        return oracles.dense(params["v"]["output"], hidden)[0]

    value, (by_q, by_state) = jax.value_and_grad(
        lambda q, state: _apply(mixer, params, q, state), argnums=(0, 1)
    )(q, state)
    expected, gradient = jax.value_and_grad(v)(state)
    assert np.abs(gradient).max() > 0.01
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(by_state, gradient, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(by_q, 0.0)
