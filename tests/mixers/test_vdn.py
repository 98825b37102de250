"""Value decomposition networks."""

import jax
import jax.numpy as jnp
import numpy as np
import samples

from qmix_jax.mixers import base, vdn


def _inputs(q, state):
    q = jnp.asarray(q)
    return base.MixerInputs(
        q_taken=q, q_greedy=q + 1.0, actions=jnp.zeros((*q.shape, 3)), state=jnp.asarray(state)
    )


def test_is_the_sum_of_the_taken_utilities():
    mixer = vdn.make(vdn.Config(), samples.SPEC)
    params = mixer.init(jax.random.key(0))
    assert jax.tree.leaves(params) == []
    out = mixer.apply(params, _inputs([[1.0, 2.0], [-5.0, 3.0]], jnp.ones((2, 5))))
    np.testing.assert_array_equal(out.q_tot, [3.0, -2.0])


def test_every_agent_gets_the_same_gradient_and_the_state_none():
    mixer = vdn.make(vdn.Config(), samples.SPEC)

    def joint(q, state):
        return mixer.apply({}, _inputs(q, state)).q_tot

    by_q, by_state = jax.grad(joint, argnums=(0, 1))(jnp.array([1.0, -2.0]), jnp.ones(5))
    np.testing.assert_array_equal(by_q, 1.0)
    np.testing.assert_array_equal(by_state, 0.0)
