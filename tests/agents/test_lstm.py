"""The LSTM agent; `test_gru.py` compares its outputs with a loop."""

import jax
import jax.numpy as jnp
import samples

from qmix_jax.nn import recurrent


def test_the_carry_has_hidden_state_and_cell():
    agent = samples.component("agents", "lstm", {"hidden": 6, "sharing": "none"})
    carry = agent.initial_carry(3)
    assert isinstance(carry, recurrent.RecurrentState)
    assert samples.signature(carry) == recurrent.RecurrentState(*[((3, 2, 6), jnp.float32)] * 2)
    params, trajectory = samples.params(agent.init), samples.batch("segment").trajectory
    prev_actions = jnp.zeros(trajectory.obs.shape[:3], jnp.int32)
    observed = samples.observed(trajectory.obs, prev_actions, trajectory.reset)
    last, _, hidden = jax.jit(agent.unroll)(params, carry, observed)
    assert (last.hidden == hidden[-1]).all()
    assert not jnp.allclose(last.cell, last.hidden)


def test_embedding_layers_are_named_in_order():
    agent = samples.component("agents", "lstm", {"hidden": 6, "embed_layers": 3})
    params = jax.eval_shape(agent.init, jax.random.key(0))
    assert set(params) == {"embed", "embed_1", "embed_2", "lstm", "head"}
