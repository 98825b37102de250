"""Observations (height, width, channels)."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples
from toys import image

from qmix_jax import components, config
from qmix_jax.agents import mlp

ENV = image.make(image.Config())
SHAPE = ENV.spec.obs_shape
AGENTS = components.names("agents")


def make(name, **options):
    module = components.find("agents", name)
    return module.make(module.Config(hidden=8, **options), ENV.spec, image.HEIGHT)


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_uses_convolutions_for_images_by_default(name):
    agent = make(name, cnn={"channels": (3,), "kernel": 2, "features": 5})
    params = samples.params(agent.init)
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes["torso"]["conv_0"] == {"kernel": (2, 2, 2, 3), "bias": (3,)}
    assert shapes["torso"]["dense"] == {"kernel": (12 * 3, 5), "bias": (5,)}
    obs = samples.normal(np.random.default_rng(0), 4, 3, 2, *SHAPE)
    prev_actions, reset = jnp.zeros((4, 3, 2), jnp.int32), jnp.zeros((4, 3), bool)
    unroll = jax.jit(agent.unroll)
    q = unroll(params, agent.initial_carry(3), samples.observed(obs, prev_actions, reset))[1]
    assert q.shape == (4, 3, 2, image.HEIGHT)
    mirrored = samples.observed(obs[..., ::-1], prev_actions, reset)
    other = unroll(params, agent.initial_carry(3), mirrored)[1]
    assert not np.allclose(q, other)


@pytest.mark.parametrize("name", AGENTS)
def test_torso_flat_flattens_images(name):
    params = jax.eval_shape(make(name, torso="flat", last_action=True).init, jax.random.key(0))
    assert "torso" not in params
    first = params["hidden_0" if name == "mlp" else "embed"]["kernel"]
    assert first.shape == (24 + image.HEIGHT + 2, 8)


def test_convolutions_over_vectors_are_refused():
    with pytest.raises(config.ConfigError, match=re.escape("and random has (4,)")):
        mlp.make(mlp.Config(torso="cnn"), samples.SPEC, 3)
