"""Duplex dueling with importance weights."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import samples

from qmix_jax.mixers import base, qplex

SMALL = {"importance_heads": 3, "importance_embed": 4, "hypernet_embed": 6}


def situations(greedy=False):
    """Inputs of 20 situations; every second action is the best, or with `greedy` all."""
    rng = np.random.default_rng(0)
    q, state = 3.0 * samples.normal(rng, 20, 2), samples.normal(rng, 20, 5)
    best = np.arange(40).reshape(20, 2) % 2 == 0 if not greedy else np.ones((20, 2), bool)
    return base.MixerInputs(
        q_taken=q,
        q_greedy=np.where(best, q, q + np.abs(samples.normal(rng, 20, 2))),
        actions=np.eye(3, dtype=np.float32)[rng.integers(0, 3, (20, 2))],
        state=state,
    )


def case(layers):
    cfg = qplex.Config(**SMALL, importance_layers=layers)
    mixer = qplex.make(cfg, samples.SPEC)
    return mixer, samples.params(mixer.init)


def importance(params, state, actions):
    """lambda[N] of one situation, as a loop over the summands."""
    total = 0.0
    for k in range(3):
        nets = jax.tree.map(lambda x, k=k: x[k], params)
        key = abs(oracles.hypernetwork(nets["key"], state)[0]) + 1e-10
        agents = oracles.sigmoid(oracles.hypernetwork(nets["agents"], state))
        both = np.concatenate([state, actions.ravel()])
        total = total + key * agents * oracles.sigmoid(oracles.hypernetwork(nets["actions"], both))
    return total


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_agrees_with_a_loop(layers):
    mixer, params = case(layers)
    inputs = situations()
    out, exact = jax.jit(mixer.apply)(params, inputs), oracles.double(params)
    for i, state in enumerate(inputs.state):
        w = np.abs(oracles.hypernetwork(exact["w"], state)) + 1e-10
        b = oracles.hypernetwork(exact["b"], state)
        weights = importance(exact["importance"], state, inputs.actions[i])
        transformed, best = w * inputs.q_taken[i] + b, w * inputs.q_greedy[i] + b
        q_tot = sum(best) + sum(weights * (transformed - best))
        np.testing.assert_allclose(out.info["importance"][i], weights, rtol=1e-3)
        np.testing.assert_allclose(out.info["weight"][i], w, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(out.q_tot[i], q_tot, rtol=1e-3, atol=1e-3)


def test_importance_is_positive_and_no_action_has_an_advantage_over_the_best():
    mixer, params = case(2)
    info = jax.jit(mixer.apply)(params, situations()).info
    assert info["importance"].min() > 0.0 and info["weight"].min() > 0.0
    assert info["advantage"].min() < -0.1 and info["advantage"].max() <= 0.0
    np.testing.assert_array_equal(np.asarray(info["advantage"]).ravel()[::2], 0.0)


def test_the_best_actions_are_worth_the_sum_of_transformed_utilities():
    mixer, params = case(2)
    inputs = situations(greedy=True)
    out = jax.jit(mixer.apply)(params, inputs)
    b = oracles.hypernetwork(oracles.double(params["b"]), inputs.state)
    expected = np.sum(out.info["weight"] * inputs.q_greedy + b, axis=-1)
    np.testing.assert_allclose(out.q_tot, expected, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_utilities_ignores_importance():
    """Their gradient is w; with live advantages it would be lambda * w."""
    mixer, params = case(2)
    inputs = situations()

    def joint(inputs, params):
        out = mixer.apply(params, inputs)
        return jnp.sum(out.q_tot), out.info

    gradient, info = jax.jit(jax.grad(joint, has_aux=True))(inputs, params)
    np.testing.assert_allclose(gradient.q_taken, info["weight"], rtol=1e-5)
    np.testing.assert_array_equal(gradient.q_greedy, 0.0)
