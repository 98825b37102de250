"""Attention over the agents."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import samples

from qmix_jax import config
from qmix_jax.mixers import base, qatten

SMALL = {"heads": 3, "embed_dim": 4, "hypernet_embed": 6}
WITHOUT_COLUMNS = replace(samples.SPEC, agent_state=None)


def case(spec=samples.SPEC, **options):
    """(mixer, params) of a small network."""
    mixer = qatten.make(qatten.Config(**{**SMALL, **options}), spec)
    return mixer, samples.params(mixer.init)


def situations(*leading, seed=0):
    rng = np.random.default_rng(seed)
    q = 3.0 * samples.normal(rng, *leading, 2)
    return base.MixerInputs(
        q_taken=q,
        q_greedy=q + 1.0,
        actions=np.zeros((*leading, 2, 3), np.float32),
        state=samples.normal(rng, *leading, 5),
    )


def loop(params, cfg, q, state, features):
    """(q_tot, penalty, attention[H][N]) of one situation; `features` are the x_i."""
    params = oracles.double(params["attend"])
    width = features.shape[1] + cfg.nonlinear
    key = params["key"]["kernel"].reshape(width, cfg.heads, cfg.embed_dim)
    head_weight = np.ones(cfg.heads)
    if cfg.weighted_heads:
        head_weight = np.abs(oracles.hypernetwork(params["head_weight"], state))
    q_tot, penalty, attention = oracles.hypernetwork(params["v"], state)[0], 0.0, []
    for h in range(cfg.heads):
        query = oracles.hypernetwork(jax.tree.map(lambda x, h=h: x[h], params["query"]), state)
        inputs = [np.append(x, q[i]) if cfg.nonlinear else x for i, x in enumerate(features)]
        logits = np.array([query @ (x @ key[:, h]) for x in inputs])
        exps = np.exp(logits / np.sqrt(cfg.embed_dim))
        attention.append(exps / exps.sum())
        q_tot += head_weight[h] * sum(attention[h] * q)
        penalty += cfg.logit_penalty * np.mean(logits**2)
    return q_tot, penalty, attention


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weighted_heads": False, "query_bias": True, "logit_penalty": 0.5},
        {"nonlinear": True, "query_layers": 1},
    ],
)
def test_agrees_with_a_loop(options):
    mixer, params = case(**options)
    cfg, inputs = qatten.Config(**{**SMALL, **options}), situations(20)
    assert ("bias" in params["attend"]["query"]["output"]) == cfg.query_bias
    out = jax.jit(mixer.apply)(params, inputs)
    for i in range(20):
        features = inputs.state[i][samples.SPEC.agent_state]
        expected = loop(params, cfg, inputs.q_taken[i], inputs.state[i], features)
        actual = (out.q_tot[i], out.penalty[i], out.info["attention"][i])
        for a, b in zip(actual, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4)


def test_attention_sums_to_one_over_the_agents():
    mixer, params = case()
    attention = np.asarray(jax.jit(mixer.apply)(params, situations(4, 5)).info["attention"])
    assert attention.shape == (4, 5, 3, 2)
    np.testing.assert_allclose(attention.sum(axis=-1), 1.0, rtol=1e-5)
    assert attention.std(axis=-2).max() > 0.1, "heads differ"


def test_without_columns_per_agent_the_index_distinguishes_agents():
    mixer, params = case(WITHOUT_COLUMNS)
    assert params["attend"]["key"]["kernel"].shape == (2, 3 * 4)
    inputs = situations(20)
    out = jax.jit(mixer.apply)(params, inputs)
    for i in range(20):
        q_tot, *_ = loop(
            params, qatten.Config(**SMALL), inputs.q_taken[i], inputs.state[i], np.eye(2)
        )
        np.testing.assert_allclose(out.q_tot[i], q_tot, rtol=2e-3, atol=1e-4)


def test_dead_agents_get_no_attention():
    """The second agent's columns are zero in the first state, both agents' in the last."""
    mixer, params = case(mask_dead=True)
    plain, _ = case()
    inputs = situations(3)
    inputs.state[0, 2:4] = inputs.state[2, :4] = 0.0
    attention, unmasked = (
        np.asarray(jax.jit(made.apply)(params, inputs).info["attention"]) for made in (mixer, plain)
    )
    np.testing.assert_array_equal(attention[0], np.tile([1.0, 0.0], (3, 1)))
    np.testing.assert_array_equal(attention[1], unmasked[1])
    np.testing.assert_allclose(attention[2], 0.5)
    assert unmasked[0].min() > 0.0
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(mixer.apply(params, inputs).q_tot)))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_mask_dead_needs_columns_per_agent():
    with pytest.raises(config.ConfigError, match="mask_dead=false"):
        case(WITHOUT_COLUMNS, mask_dead=True)


def test_nonlinear_keys_are_declared_not_monotonic():
    mixer, params = case(nonlinear=True)
    assert not mixer.monotonic and not mixer.igm
    inputs = situations(200)

    def joint(q, params):
        return jnp.sum(mixer.apply(params, replace(inputs, q_taken=q)).q_tot)

    assert jax.jit(jax.grad(joint))(inputs.q_taken, params).min() < -0.1
