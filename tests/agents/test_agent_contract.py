"""The agent contract, for every built-in agent and every form of parameter sharing."""

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples

from qmix_jax import components
from qmix_jax.types import Box, Discrete, Observed

SPEC = replace(
    samples.SPEC,
    agent_names=("a", "b", "c"),
    agent_groups=(0, 1, 0),
    actions=Discrete((3, 2, 3)),
    obs_shapes=((4,), (3,), (4,)),
)
N, A = SPEC.n_agents, SPEC.actions.width
AGENTS = list(itertools.product(components.names("agents"), ("all", "none", "groups")))
every_agent = pytest.mark.parametrize("name", AGENTS, ids="-".join)


@functools.cache
def agent_case(name):
    """(agent, params, jitted unroll) of an agent with every input."""
    module = components.find("agents", name[0])
    agent = module.make(module.Config(last_action=True, sharing=name[1], hidden=8), SPEC, A)
    unroll = jax.jit(
        lambda params, carry, *seen: agent.unroll(params, carry, samples.observed(*seen))
    )
    return agent, samples.params(agent.init), unroll


def history(seed=0, t=7, b=3):
    """(obs, prev_actions, reset) in mid-episode; new ones start anywhere but at first."""
    rng = np.random.default_rng(seed)
    reset = rng.random((t, b)) < 0.25
    reset[0] = False
    prev_actions = rng.integers(0, A, (t, b, N)).astype(np.int32)
    return samples.normal(rng, t, b, N, *SPEC.obs_shape), prev_actions, reset


@every_agent
def test_shapes_and_dtypes(name):
    agent, params, unroll = agent_case(name)
    carry, q, hidden = unroll(params, agent.initial_carry(3), *history())
    assert (q.shape, q.dtype) == ((7, 3, N, A), jnp.float32)
    assert (hidden.shape[:3], hidden.dtype) == ((7, 3, N), jnp.float32)
    assert samples.signature(carry) == samples.signature(agent.initial_carry(3))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@every_agent
def test_acting_equals_unrolling(name):
    """Steps with T = 1 and their carry equal the unroll with T = 7."""
    agent, params, unroll = agent_case(name)
    obs, prev_actions, reset = history()
    carry = samples.live_carry(agent)
    last, q, _ = unroll(params, carry, obs, prev_actions, reset)
    for t in range(7):
        step = slice(t, t + 1)
        carry, q_t, _ = unroll(params, carry, obs[step], prev_actions[step], reset[step])
        np.testing.assert_allclose(q_t[0], q[t], rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), carry, last)


@every_agent
def test_sequences_are_independent(name):
    agent, params, unroll = agent_case(name)
    obs, prev_actions, reset = history()
    q = unroll(params, agent.initial_carry(3), obs, prev_actions, reset)[1]
    for b in range(3):
        sequence = slice(b, b + 1)
        alone = unroll(
            params,
            agent.initial_carry(1),
            obs[:, sequence],
            prev_actions[:, sequence],
            reset[:, sequence],
        )[1]
        np.testing.assert_allclose(alone[:, 0], q[:, b], rtol=1e-5, atol=1e-5)


@every_agent
def test_utilities_are_decentralised(name):
    """Observations and actions of the second agent do not change the values of the others."""
    agent, params, unroll = agent_case(name)
    obs, prev_actions, reset = history()
    q = unroll(params, agent.initial_carry(3), obs, prev_actions, reset)[1]
    second = np.arange(N) == 1
    obs = np.where(second[:, None], obs + 3.0, obs)
    prev_actions = np.where(second, (prev_actions + 1) % A, prev_actions)
    other = unroll(params, agent.initial_carry(3), obs, prev_actions, reset)[1]
    np.testing.assert_array_equal(other[:, :, ::2], q[:, :, ::2])
    assert (np.asarray(other[:, :, 1] != q[:, :, 1])).all()


@every_agent
def test_a_reset_clears_the_memory(name):
    agent, params, unroll = agent_case(name)
    obs, prev_actions, reset = history()
    start = np.arange(7) == 4
    reset = np.broadcast_to(start[:, None], reset.shape)
    prev_actions = np.where(start[:, None, None], -1, prev_actions)
    q = unroll(params, agent.initial_carry(3), obs, prev_actions, reset)[1]
    before = (np.arange(7) < 4)[:, None, None]
    obs = np.where(before[..., None], obs + 3.0, obs)
    prev_actions = np.where(before, (prev_actions + 1) % A, prev_actions)
    other = unroll(params, samples.live_carry(agent), obs, prev_actions, reset)[1]
    np.testing.assert_array_equal(other[4:], q[4:])
    assert (np.asarray(other[:4] != q[:4])).any(axis=(1, 2, 3)).all()


@every_agent
def test_no_previous_action_differs_from_every_action(name):
    """-1 is not an action: its utilities differ from those of every action."""
    agent, params, unroll = agent_case(name)
    obs, _, reset = history(t=1)
    values = [
        unroll(params, agent.initial_carry(3), obs, np.full((1, 3, N), action, np.int32), reset)[1]
        for action in range(-1, A)
    ]
    for a, b in itertools.combinations(values, 2):
        assert not np.allclose(a, b)


@every_agent
def test_gradients_are_finite_and_reach_every_parameter(name):
    agent, params, _ = agent_case(name)

    def objective(params):
        observed = samples.observed(*history())
        return jnp.sum(agent.unroll(params, agent.initial_carry(3), observed)[1] ** 2)

    leaves = jax.tree.leaves(jax.jit(jax.grad(objective))(params))
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in leaves)


@pytest.mark.parametrize("name", components.names("agents"))
def test_the_head_has_the_requested_width(name):
    module = components.find("agents", name)
    agent = module.make(module.Config(hidden=8), SPEC, 5)
    obs, prev_actions, reset = history(t=2)
    shapes = jax.eval_shape(
        agent.unroll,
        jax.eval_shape(agent.init, jax.random.key(0)),
        agent.initial_carry(3),
        samples.observed(obs, prev_actions, reset),
    )
    assert shapes[1].shape == (2, 3, N, 5)


@pytest.mark.parametrize("name", components.names("agents"))
def test_continuous_previous_actions_are_inputs(name):
    """Doubling the last action changes the head; at the start of an episode it is zero."""
    spec = replace(SPEC, actions=Box((2, 1, 2)))
    module = components.find("agents", name)
    agent = module.make(module.Config(last_action=True, hidden=8), spec, 2)
    params, (obs, _, reset) = samples.params(agent.init), history(t=1)
    prev_actions = samples.normal(np.random.default_rng(1), 1, 3, N, 2)
    heads = [
        agent.unroll(
            params,
            agent.initial_carry(3),
            Observed(
                obs=obs,
                prev_actions=scale * prev_actions,
                reset=reset,
                avail_actions=np.ones((1, 3, N, 2), bool),
            ),
        )[1]
        for scale in (1.0, 2.0)
    ]
    assert heads[0].shape == (1, 3, N, 2) and not np.allclose(heads[0], heads[1])
    np.testing.assert_array_equal(spec.actions.none(), np.zeros((N, 2)))


def test_the_index_of_a_state_becomes_one_hot():
    """Deep agents in a tabular game get a one-hot state, not its index."""
    spec = replace(SPEC, obs_shapes=((1,),) * N, obs_shape=(1,), n_states=6)
    module = components.find("agents", "mlp")
    agent = module.make(module.Config(hidden=8, agent_id=False), spec, A)
    params = samples.params(agent.init)
    assert params["hidden_0"]["kernel"].shape == (6, 8)
    obs = np.full((1, 1, N, 1), 4.0, np.float32)
    observed = samples.observed(obs, np.zeros((1, 1, N), np.int32), np.zeros((1, 1), bool))
    hidden = agent.unroll(params, (), observed)[2]
    layer = params["hidden_0"]
    np.testing.assert_allclose(
        hidden[0, 0, 0], np.maximum(layer["kernel"][4] + layer["bias"], 0.0), rtol=1e-6
    )
