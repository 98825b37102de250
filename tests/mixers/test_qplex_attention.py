"""Duplex dueling of utilities weighted by Qatten's attention."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples

from qmix_jax import config
from qmix_jax.mixers import base, qatten, qplex_attention


@pytest.fixture(scope="module")
def networks():
    """(mixer, Qatten, their params, inputs): Qatten with the same attention, heads unweighted."""
    mixer = qplex_attention.make(qplex_attention.Config(logit_penalty=0.5), samples.SPEC)
    plain = qatten.make(qatten.Config(weighted_heads=False, logit_penalty=0.5), samples.SPEC)
    params = samples.params(mixer.init)
    rng = np.random.default_rng(0)
    q = 3.0 * samples.normal(rng, 20, 2)
    inputs = base.MixerInputs(
        q_taken=q,
        q_greedy=q,
        actions=np.eye(3, dtype=np.float32)[rng.integers(0, 3, (20, 2))],
        state=samples.normal(rng, 20, 5),
    )
    return mixer, plain, params, inputs


def test_the_value_of_greedy_actions_is_qattens(networks):
    mixer, plain, params, inputs = networks
    out = jax.jit(mixer.apply)(params, inputs)
    expected = jax.jit(plain.apply)({"attend": params["attend"]}, inputs)
    assert set(params) == {"attend", "importance"}
    np.testing.assert_allclose(out.q_tot, expected.q_tot, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out.penalty, expected.penalty, rtol=1e-5)
    np.testing.assert_array_equal(out.info["attention"], expected.info["attention"])


def test_other_values_are_lower_by_the_weighted_advantages(networks):
    mixer, _, params, inputs = networks
    better = replace(inputs, q_greedy=inputs.q_taken + np.array([1.0, 2.0], np.float32))
    most, less = (
        jax.jit(mixer.apply)(params, x) for x in (replace(better, q_taken=better.q_greedy), better)
    )
    info = less.info
    np.testing.assert_allclose(
        info["advantage"], -info["weight"] * jnp.array([[1.0, 2.0]]), rtol=1e-4
    )
    loss = jnp.sum(info["importance"] * info["advantage"], axis=-1)
    np.testing.assert_allclose(less.q_tot - most.q_tot, loss, rtol=1e-3, atol=1e-3)


def test_nonlinear_keys_are_declared_without_igm():
    mixer = qplex_attention.make(qplex_attention.Config(nonlinear=True), samples.SPEC)
    assert not mixer.igm and not mixer.monotonic


def test_mask_dead_needs_columns_per_agent():
    with pytest.raises(config.ConfigError, match="mask_dead=false"):
        qplex_attention.make(
            qplex_attention.Config(mask_dead=True), replace(samples.SPEC, agent_state=None)
        )
