"""A sum of utilities with non-negative weights from the state."""

import jax
import numpy as np
import oracles
import pytest
import samples

from qmix_jax.mixers import base, qmix_lin


@pytest.mark.parametrize("layers", [1, 2])
def test_weights_depend_on_the_state(layers):
    cfg = qmix_lin.Config(embed_dim=3, hypernet_layers=layers, hypernet_embed=4)
    mixer = qmix_lin.make(cfg, samples.SPEC)
    params = samples.params(mixer.init)
    rng = np.random.default_rng(0)
    q, state = 3.0 * samples.normal(rng, 20, 2), samples.normal(rng, 20, 5)
    inputs = base.MixerInputs(
        q_taken=q, q_greedy=q + 1.0, actions=np.zeros((20, 2, 3)), state=state
    )
    out = jax.jit(mixer.apply)(params, inputs)
    raw, value = (oracles.hypernetwork(oracles.double(params[name]), state) for name in ("w", "v"))
    assert raw.min() < 0.0 < raw.max()
    np.testing.assert_allclose(out.info["weight"], np.abs(raw), rtol=1e-4, atol=1e-5)
    expected = [sum(np.abs(raw[i]) * q[i]) + value[i, 0] for i in range(20)]
    np.testing.assert_allclose(out.q_tot, expected, rtol=1e-4, atol=1e-5)
