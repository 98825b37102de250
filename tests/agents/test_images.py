"""Observations (height, width, channels)."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples
from toys import image, members

from qmix_jax import components, config
from qmix_jax.agents import base, mlp

ENV = image.make(image.Config())
SHAPE = ENV.spec.obs_shape
AGENTS = components.names("agents")


def make(name, **options):
    module = components.find("agents", name)
    return module.make(module.Config(hidden=8, **options), ENV.spec)


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_looks_at_images_with_convolutions_of_its_own_accord(name):
    agent = make(name, cnn={"channels": (3,), "kernel": 2, "features": 5})
    params = samples.params(agent.init)
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes["torso"]["conv_0"] == {"kernel": (2, 2, 2, 3), "bias": (3,)}
    assert shapes["torso"]["dense"] == {"kernel": (12 * 3, 5), "bias": (5,)}
    obs = samples.normal(np.random.default_rng(0), 4, 3, 2, *SHAPE)
    prev_actions, reset = jnp.zeros((4, 3, 2), jnp.int32), jnp.zeros((4, 3), bool)
    q = agent.unroll(params, agent.initial_carry(3), obs, prev_actions, reset)[1]
    assert q.shape == (4, 3, 2, image.HEIGHT)
    other = agent.unroll(params, agent.initial_carry(3), obs[..., ::-1], prev_actions, reset)[1]
    assert not np.allclose(q, other)


@pytest.mark.parametrize("name", AGENTS)
def test_flat_takes_the_entries_in_a_row(name):
    params = jax.eval_shape(make(name, torso="flat", last_action=True).init, jax.random.key(0))
    assert "torso" not in params
    first = params["hidden_0" if name == "mlp" else "embed"]["kernel"]
    assert first.shape == (24 + image.HEIGHT + 2, 8)


def test_convolutions_over_vectors_are_refused():
    with pytest.raises(config.ConfigError, match=re.escape("those of random are (4,)")):
        mlp.make(mlp.Config(torso="cnn"), samples.SPEC)


def test_a_run_on_images_learns_to_see_them():
    """Collected, kept in eight bits, sampled, learnt from and evaluated; each agent its own."""
    cfg = members.load(
        env={"name": "toys.image"},
        agent={
            "name": "mlp",
            "options": {
                "hidden": 32,
                "last_action": False,
                "sharing": "none",
                "cnn": {"channels": [8], "features": 32},
            },
        },
        algo={"name": "vdn", "factorisation": {"name": "td"}, "mixer": {"name": "vdn"}},
        hparams={
            "learning_rate": 3e-3,
            "gamma": 0.0,
            "epsilon": {"start": 1, "end": 1, "steps": 1},
        },
        replay={"batch_size": 32, "capacity": 128, "obs_dtype": "uint8"},
        trainer={"collector": "window", "n_envs": 16, "window": 4, "env_steps": 12_000},
    )
    trained = members.train(cfg)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), trained.states[0].replay)
    assert shapes["obs"] == ((1, 128, 5, 2, *SHAPE), jnp.uint8)
    sequence = 5 * (2 * 24 + 2 * 4 + 2 * 3 + 1) + 4 * (2 + 4 + 2) + 2
    assert trained.program.plan.sequence_bytes == sequence
    assert set(np.unique(trained.states[0].replay["obs"])) == {0, 254}
    assert trained.evaluation["return"][0] > 0.9 * image.Config().length


def test_images_are_kept_apart_from_what_comes_with_them():
    """The id and the last action reach the network around the convolutions."""
    agent = make("gru", sharing="none")
    params = samples.params(agent.init)
    start = base.features(jnp.zeros((2, 24)), jnp.array([1, -1]), image.HEIGHT, True, True)
    assert params["embed"]["kernel"].shape == (2, 64 + start.shape[-1] - 24, 8)
