"""The monotonic mixing network that does not see the state."""

import jax
import jax.numpy as jnp
import numpy as np
import samples

from qmix_jax.mixers import base, qmix_ns

WORKED = {
    "w1": jnp.array([[1.0, -2.0], [0.5, 1.0]]),
    "b1": jnp.array([0.0, -5.0]),
    "w2": jnp.array([[-1.0], [3.0]]),
    "b2": jnp.array([0.5]),
}


def _q_tot(mixer, params, q, state):
    inputs = base.MixerInputs(
        q_taken=jnp.asarray(q), q_greedy=jnp.zeros(2), actions=jnp.zeros((2, 3)), state=state
    )
    return jax.jit(mixer.apply)(params, inputs).q_tot


def test_by_hand():
    """QMIX's example: 2 * |-1| + (exp(-1) - 1) * 3 + 0.5, whatever the state."""
    mixer = qmix_ns.make(qmix_ns.Config(embed_dim=2), samples.SPEC)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(mixer.init, jax.random.key(0)))
    assert shapes == jax.tree.map(jnp.shape, WORKED)
    for state in (jnp.zeros(5), 1e3 * jnp.arange(5.0)):
        np.testing.assert_allclose(_q_tot(mixer, WORKED, [1.0, 2.0], state), 0.603638, atol=1e-6)


def test_biases_keep_their_sign():
    mixer = qmix_ns.make(qmix_ns.Config(embed_dim=2), samples.SPEC)
    params = {**WORKED, "b2": jnp.array([-0.7])}
    expected = (np.exp(-2.0) - 1.0) + 3.0 * (np.exp(-9.0) - 1.0) - 0.7
    q_tot = _q_tot(mixer, params, [-1.0, -2.0], jnp.zeros(5))
    np.testing.assert_allclose(q_tot, expected, rtol=1e-5)
