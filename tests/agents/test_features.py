"""Features that agents add to the observation."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import samples

from qmix_jax import components
from qmix_jax.agents import base
from qmix_jax.types import Discrete

OBS = jnp.array([[0.5, -0.5], [1.5, 2.5]])
LAST = Discrete((3, 3)).features(jnp.array([2, -1]))


def test_features_by_hand():
    features = base.features(OBS, LAST, agent_id=True)
    expected = [[0.5, -0.5, 0, 0, 1, 1, 0], [1.5, 2.5, 0, 0, 0, 0, 1]]
    np.testing.assert_array_equal(features, expected)
    assert features.dtype == jnp.float32


@pytest.mark.parametrize("leading", [(), (4,), (3, 4)])
@pytest.mark.parametrize(("last_action", "agent_id"), [(False, False), (True, False), (True, True)])
def test_features_under_any_leading_axes(leading, last_action, agent_id):
    obs = jnp.broadcast_to(OBS, (*leading, 2, 2))
    last = jnp.broadcast_to(LAST, (*leading, 2, 3)) if last_action else None
    features = base.features(obs, last, agent_id)
    alone = base.features(OBS, LAST if last_action else None, agent_id)
    np.testing.assert_array_equal(features, np.broadcast_to(alone, (*leading, *alone.shape)))


def test_previous_actions_are_cleared_at_every_episode_start():
    for form in samples.FORMS:
        trajectory = samples.batch(form).trajectory
        first = jnp.array([[2, 1], [0, 0], [1, 2]], jnp.int32)
        rebuilt = base.previous_actions(trajectory.actions, trajectory.reset, first)
        expected = oracles.previous_actions(trajectory.actions, trajectory.reset)
        assert (expected == -1).any() and (expected >= 0).any()
        np.testing.assert_array_equal(rebuilt, expected)
        assert rebuilt.dtype == jnp.int32
        continued = base.previous_actions(
            trajectory.actions, np.zeros_like(trajectory.reset), first
        )
        np.testing.assert_array_equal(continued, [first, *trajectory.actions])


@pytest.mark.parametrize(
    ("name", "first_layer"), [("gru", "embed"), ("lstm", "embed"), ("mlp", "hidden_0")]
)
@pytest.mark.parametrize("last_action", [True, False])
@pytest.mark.parametrize("agent_id", [True, False])
def test_switches_set_the_input_width(name, first_layer, last_action, agent_id):
    module = components.find("agents", name)
    cfg = module.Config(hidden=8, last_action=last_action, agent_id=agent_id)
    params = jax.eval_shape(module.make(cfg, samples.SPEC, 3).init, jax.random.key(0))
    spec = samples.SPEC
    width = spec.obs_shape[0] + last_action * spec.actions.width + agent_id * spec.n_agents
    assert params[first_layer]["kernel"].shape == (width, 8)


@pytest.mark.parametrize("name", ["gru", "mlp"])
def test_without_an_id_equal_agents_have_equal_utilities(name):
    module = components.find("agents", name)
    trajectory = samples.batch("segment").trajectory
    obs = np.broadcast_to(trajectory.obs[:, :, :1], trajectory.obs.shape)
    prev_actions = jnp.zeros(obs.shape[:3], jnp.int32)
    for agent_id in (False, True):
        agent = module.make(module.Config(hidden=8, agent_id=agent_id), samples.SPEC, 3)
        params, carry = samples.params(agent.init), agent.initial_carry(3)
        observed = samples.observed(obs, prev_actions, trajectory.reset)
        _, q, _ = agent.unroll(params, carry, observed)
        assert np.array_equal(q[:, :, 0], q[:, :, 1]) is not agent_id
