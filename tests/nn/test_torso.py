"""Layers of a torso, compared with loops."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import samples
from flax import linen as nn

from qmix_jax.nn import functional, torso

SHAPE = (3, 4, 2)
IMAGE = torso.CNNSpec(SHAPE, channels=(3, 5), kernel=3, features=6)


class Network(nn.Module):
    torso: torso.Torso

    @nn.compact
    def __call__(self, x):
        return torso.embed(self.torso, x)


def case(layers, width, leading=(2, 3)):
    init, apply = functional.pure(Network(layers))
    x = samples.normal(np.random.default_rng(1), *leading, width)
    return samples.params(lambda key: init(key, x)), x, apply


def relu(params, name, x):
    norm = params.get(f"{name}_norm")
    return oracles.relu(x if norm is None else oracles.layer_norm(norm, x))


def embed(params, names, x):
    for name in names:
        x = relu(params, name, oracles.dense(params[name], x))
    return x


@pytest.mark.parametrize("layer_norm", [False, True])
def test_dense_layers_agree_with_a_loop(layer_norm):
    params, x, apply = case(torso.Torso(("first", "second"), 6, layer_norm), 5)
    assert ("first_norm" in params) is layer_norm
    for index in np.ndindex(x.shape[:-1]):
        expected = embed(oracles.double(params), ("first", "second"), x[index])
        np.testing.assert_allclose(apply(params, x)[index], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("kernel", [2, 3])
def test_convolutions_agree_with_a_loop(kernel, layer_norm):
    """The image's entries come first; the others bypass the convolutions."""
    image = IMAGE._replace(kernel=kernel)
    params, x, apply = case(torso.Torso(("embed",), 6, layer_norm, image), 24 + 3)
    result, exact = apply(params, x), oracles.double(params)
    for index in np.ndindex(x.shape[:-1]):
        embedded = x[index][:24].reshape(SHAPE).astype(np.float64)
        for name in ("conv_0", "conv_1"):
            weights = exact["torso"][name]
            embedded = oracles.convolution(weights["kernel"], weights["bias"], embedded)
            embedded = relu(exact["torso"], name, embedded)
        embedded = embed(exact["torso"], ("dense",), embedded.ravel())
        expected = embed(exact, ("embed",), np.concatenate([embedded, x[index][24:]]))
        np.testing.assert_allclose(result[index], expected, rtol=1e-4, atol=1e-4)


def test_convolutions_start_within_pytorchs_bounds():
    image = IMAGE._replace(shape=(3, 4, 16), channels=(64,))
    init, _ = functional.pure(torso.CNN(image, layer_norm=False))
    params = jax.jit(init)(jax.random.key(0), jnp.zeros(image.shape))
    bound = 1.0 / np.sqrt(16 * 9)
    for leaf in params["conv_0"].values():
        assert 0.9 * bound < np.abs(leaf).max() <= bound
    np.testing.assert_allclose(np.std(params["conv_0"]["kernel"]), bound / np.sqrt(3), rtol=0.1)
