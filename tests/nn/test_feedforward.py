"""Dense layers, stacks of them, and hypernetworks."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import samples

from qmix_jax.nn import functional, hypernetwork, initialisers, mlp


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_dense_starts_within_pytorchs_bounds(scale):
    init, _ = functional.pure(initialisers.Dense(200, scale))
    params = init(jax.random.key(0), jnp.zeros((25,)))
    bound = scale / 5.0
    for leaf in (params["kernel"], params["bias"]):
        assert 0.9 * bound < np.abs(leaf).max() <= bound
        assert abs(np.mean(leaf)) < 0.2 * bound
        np.testing.assert_allclose(np.std(leaf), bound / np.sqrt(3), rtol=0.1)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_dense_by_hand_under_any_leading_axes(leading):
    _, apply = functional.pure(initialisers.Dense(2))
    params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "bias": jnp.array([0.5, -0.5])}
    x = jnp.broadcast_to(jnp.array([1.0, -1.0]), (*leading, 2))
    np.testing.assert_array_equal(apply(params, x), np.broadcast_to([-1.5, -2.5], (*leading, 2)))


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("leading", [(), (2, 3)])
def test_mlp_agrees_with_a_loop_under_any_leading_axes(layers, leading):
    init, apply = functional.pure(mlp.MLP(2, 4, layers))
    params = samples.params(lambda key: init(key, jnp.zeros((5,))))
    x = samples.normal(np.random.default_rng(0), *leading, 5)
    assert len(params) == layers + 1
    expected = oracles.mlp(oracles.double(params), x)
    np.testing.assert_allclose(apply(params, x), expected, rtol=1e-4, atol=1e-5)


def test_hypernetwork_of_one_layer_is_linear():
    init, apply = functional.pure(hypernetwork.Hypernetwork(6, layers=1, hidden=7))
    state = jax.random.normal(jax.random.key(1), (4, 5))
    params = init(jax.random.key(0), state)
    assert jax.tree.map(jnp.shape, params) == {"output": {"kernel": (5, 6), "bias": (6,)}}
    expected = oracles.dense(oracles.double(params["output"]), np.asarray(state))
    np.testing.assert_allclose(apply(params, state), expected, rtol=1e-5, atol=1e-6)


def test_hypernetwork_of_two_layers_has_a_relu_between():
    init, apply = functional.pure(hypernetwork.Hypernetwork(6, layers=2, hidden=7))
    state = jax.random.normal(jax.random.key(1), (4, 5))
    params = init(jax.random.key(0), state)
    hidden_layer, output_layer = (oracles.double(params[name]) for name in ("hidden", "output"))
    hidden = oracles.relu(oracles.dense(hidden_layer, np.asarray(state)))
    assert (hidden == 0).any() and (hidden > 0).any()
    expected = oracles.dense(output_layer, hidden)
    np.testing.assert_allclose(apply(params, state), expected, rtol=1e-5, atol=1e-6)


def test_hypernetwork_of_three_layers_without_an_output_bias():
    init, apply = functional.pure(hypernetwork.Hypernetwork(6, 3, hidden=7, output_bias=False))
    state = jax.random.normal(jax.random.key(1), (4, 5))
    params = init(jax.random.key(0), state)
    assert jax.tree.map(jnp.shape, params) == {
        "hidden": {"kernel": (5, 7), "bias": (7,)},
        "hidden_1": {"kernel": (7, 7), "bias": (7,)},
        "output": {"kernel": (7, 6)},
    }
    expected = oracles.hypernetwork(oracles.double(params), np.asarray(state))
    np.testing.assert_allclose(apply(params, state), expected, rtol=1e-5, atol=1e-6)


def test_heads_are_independent_hypernetworks():
    init, apply = functional.pure(hypernetwork.heads(3)(6, 2, hidden=7))
    state = jax.random.normal(jax.random.key(1), (2, 4, 5))
    params = init(jax.random.key(0), state)
    assert params["hidden"]["kernel"].shape == (3, 5, 7)
    assert np.unique(params["hidden"]["kernel"]).size == 3 * 5 * 7
    assert np.abs(params["hidden"]["kernel"]).max() <= 5**-0.5
    out = jax.jit(apply)(params, state)
    assert out.shape == (2, 4, 3, 6)
    for head in range(3):
        alone = oracles.hypernetwork(
            oracles.double(jax.tree.map(lambda x, head=head: x[head], params)), np.asarray(state)
        )
        np.testing.assert_allclose(out[..., head, :], alone, rtol=1e-5, atol=1e-6)


def test_init_scale_is_on_the_last_layer_only():
    def params(scale):
        init, _ = functional.pure(hypernetwork.Hypernetwork(6, 2, 7, init_scale=scale))
        return init(jax.random.key(0), jnp.zeros((5,)))

    full, small = params(1.0), params(0.01)
    np.testing.assert_array_equal(full["hidden"]["kernel"], small["hidden"]["kernel"])
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(
            small["output"][name], 0.01 * full["output"][name], rtol=1e-4, atol=1e-7
        )


@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (2, 1, 3)])
def test_the_custom_gradient_of_affine_equals_autodiff(leading):
    def draw(seed, *shape):
        return jax.random.normal(jax.random.key(seed), shape)

    x, kernel, bias = draw(0, *leading, 5), draw(1, 5, 7), draw(2, 7)
    weight = draw(3, *leading, 7)

    def plain(x, kernel, bias):
        return jnp.sum(
            jnp.sin(jnp.matmul(x, kernel) + jnp.broadcast_to(bias, weight.shape)) * weight
        )

    def ours(x, kernel, bias):
        return jnp.sum(jnp.sin(functional.affine(x, kernel, bias)) * weight)

    expected = jax.value_and_grad(plain, (0, 1, 2))(x, kernel, bias)
    actual = jax.jit(jax.value_and_grad(ours, (0, 1, 2)))(x, kernel, bias)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), actual, expected
    )
