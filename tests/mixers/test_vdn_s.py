"""The sum of the utilities, and a value of the state."""

import jax
import numpy as np
import oracles
import samples

from qmix_jax.mixers import base, vdn_s


def test_adds_a_state_value_to_the_sum():
    mixer = vdn_s.make(vdn_s.Config(embed_dim=4), samples.SPEC)
    params = samples.params(mixer.init)
    rng = np.random.default_rng(0)
    q, state = 3.0 * samples.normal(rng, 20, 2), samples.normal(rng, 20, 5)
    inputs = base.MixerInputs(
        q_taken=q, q_greedy=q + 1.0, actions=np.zeros((20, 2, 3)), state=state
    )
    assert params["v"]["hidden"]["kernel"].shape == (5, 4)
    value = oracles.hypernetwork(oracles.double(params["v"]), state)[:, 0]
    assert value.min() < 0.0 < value.max()
    q_tot = jax.jit(mixer.apply)(params, inputs).q_tot
    np.testing.assert_allclose(q_tot, q.sum(axis=-1) + value, rtol=1e-5, atol=1e-5)
