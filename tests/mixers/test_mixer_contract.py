"""The mixer contract, for every built-in mixer."""

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples

from qmix_jax import components
from qmix_jax.mixers import base

SPEC = samples.SPEC
N, A = SPEC.n_agents, SPEC.actions.width
# Options that change the arithmetic; other mixers are tested with their defaults.
OPTIONS = {
    "qmix": (
        {"hypernet_layers": 1},
        {"hypernet_layers": 2},
        {"weight": "softplus"},
        {"weight": "square"},
        {"layer_norm": True},
    ),
    "qatten": ({}, {"weighted_heads": False, "query_bias": True}, {"nonlinear": True}),
    "qplex": ({}, {"importance_layers": 3}),
}
MIXERS = tuple(
    (name, tuple(options.items()))
    for name in components.names("mixers")
    for options in OPTIONS.get(name, ({},))
)


@functools.cache
def mixer_case(name, options):
    """(mixer, params, jitted output for (params, inputs))."""
    mixer = samples.component("mixers", name, options)
    return mixer, samples.params(mixer.init), jax.jit(mixer.apply)


def situations(*leading, seed=0):
    """Inputs of random actions, best or not, from utilities of both signs."""
    rng = np.random.default_rng(seed)
    q = 3.0 * samples.normal(rng, *leading, N, A)
    avail = samples.random_avail(rng, leading)
    actions = np.argmax(avail * rng.random(avail.shape), axis=-1)
    return base.MixerInputs(
        q_taken=np.take_along_axis(q, actions[..., None], axis=-1)[..., 0],
        q_greedy=np.where(avail, q, -np.inf).max(axis=-1),
        actions=np.eye(A, dtype=np.float32)[actions],
        state=samples.normal(rng, *leading, SPEC.state_size),
    )


def cases(promise):
    return pytest.mark.parametrize(
        ("name", "options"), [case for case in MIXERS if promise(mixer_case(*case)[0])]
    )


mixer_variants = cases(lambda mixer: True)
monotonic_variants = cases(lambda mixer: mixer.monotonic)
igm_variants = cases(lambda mixer: mixer.igm)


@mixer_variants
def test_takes_any_leading_axes(name, options):
    _, params, apply = mixer_case(name, options)
    inputs = situations(4, 3)
    out = apply(params, inputs)
    assert samples.signature((out.q_tot, out.penalty)) == (((4, 3), jnp.float32),) * 2
    for t, b in np.ndindex(4, 3):
        alone = apply(params, jax.tree.map(lambda x, here=(t, b): x[here], inputs))
        assert alone.q_tot.shape == alone.penalty.shape == ()
        jax.tree.map(
            lambda x, batched, here=(t, b): np.testing.assert_allclose(
                batched[here], x, rtol=1e-4, atol=1e-4
            ),
            alone,
            out,
        )


@monotonic_variants
def test_monotonic_mixers_are_monotonic(name, options):
    mixer, _, apply = mixer_case(name, options)

    def joint(q_taken, params, inputs):
        return jnp.sum(apply(params, replace(inputs, q_taken=q_taken)).q_tot)

    by_q = jax.jit(jax.grad(joint))
    for seed in range(3):
        params, inputs = samples.params(mixer.init, seed), situations(200, seed=seed)
        slopes = np.asarray(by_q(inputs.q_taken, params, inputs))
        assert slopes.min() >= 0.0 and slopes.max() > 0.0


@monotonic_variants
def test_a_monotonic_value_depends_on_taken_utilities_and_state_only(name, options):
    mixer, params, apply = mixer_case(name, options)
    assert mixer.igm
    inputs, other = situations(20), situations(20, seed=1)
    changed = replace(inputs, q_greedy=other.q_greedy, actions=other.actions)
    np.testing.assert_array_equal(apply(params, changed).q_tot, apply(params, inputs).q_tot)


@igm_variants
def test_individual_global_max(name, options):
    """By brute force over all joint actions of 3 x 50 inputs."""
    mixer, _, apply = mixer_case(name, options)
    joint = np.array(list(itertools.product(*map(range, SPEC.actions.sizes))))
    for seed in range(3):
        rng = np.random.default_rng(seed)
        q, state = 3.0 * samples.normal(rng, 50, N, A), samples.normal(rng, 50, SPEC.state_size)
        q[:, np.arange(A) >= np.array(SPEC.actions.sizes)[:, None]] = -np.inf
        inputs = base.MixerInputs(
            q_taken=q[:, np.arange(N), joint],
            q_greedy=np.repeat(q.max(axis=-1)[:, None], len(joint), axis=1),
            actions=np.repeat(np.eye(A, dtype=np.float32)[joint][None], 50, axis=0),
            state=np.repeat(state[:, None], len(joint), axis=1),
        )
        table = np.asarray(apply(samples.params(mixer.init, seed), inputs).q_tot)
        greedy = (joint == np.argmax(q, axis=-1)[:, None]).all(axis=-1)
        np.testing.assert_allclose(table[greedy], table.max(axis=1), rtol=1e-5, atol=1e-5)
        assert (table.max(axis=1) > table.min(axis=1)).all()


@mixer_variants
def test_gradients_are_finite_and_reach_every_parameter(name, options):
    _, params, apply = mixer_case(name, options)

    def joint(params, inputs):
        out = apply(params, inputs)
        return jnp.sum(out.q_tot), out

    (_, out), gradient = jax.jit(jax.value_and_grad(joint, has_aux=True))(params, situations(20))
    leaves = jax.tree.leaves(gradient)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 1e-3 for leaf in leaves)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))
    assert (out.penalty >= 0.0).all()


@mixer_variants
def test_bfloat16_rounds_inside_and_returns_float32(name, options):
    mixer, params, apply = mixer_case(name, options)
    inputs = situations(50)
    full, low = apply(params, inputs), jax.jit(base.in_bfloat16(mixer).apply)(params, inputs)
    assert samples.signature(low) == samples.signature(full)
    error = np.abs(low.q_tot - full.q_tot)
    assert 0.0 < error.max() < 0.05 * np.abs(full.q_tot).max()
