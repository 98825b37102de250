"""What every mixer promises, over every one that ships."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples

from qmix_jax import components
from qmix_jax.mixers import base

SPEC = samples.SPEC
N, A = SPEC.n_agents, SPEC.n_actions_max
# Variants whose arithmetic differs; a mixer that is not named is tried as it comes.
OPTIONS = {
    "qmix": (
        {"hypernet_layers": 1},
        {"hypernet_layers": 2},
        {"weight": "softplus"},
        {"weight": "square"},
    )
}
MIXERS = tuple(
    (name, tuple(options.items()))
    for name in components.names("mixers")
    for options in OPTIONS.get(name, ({},))
)


@functools.cache
def mixer_case(name, options):
    """(mixer, params, jitted output for (params, q, state) whose best actions are the taken)."""
    mixer = samples.component("mixers", name, options)

    def apply(params, q, state):
        actions = jnp.zeros((*q.shape, A))
        inputs = base.MixerInputs(q_taken=q, q_greedy=q, actions=actions, state=state)
        return mixer.apply(params, inputs)

    return mixer, samples.params(mixer.init), jax.jit(apply)


def situations(*leading, seed=0):
    """(q[..., N], state[..., S]), utilities of both signs."""
    rng = np.random.default_rng(seed)
    return 3.0 * samples.normal(rng, *leading, N), samples.normal(rng, *leading, SPEC.state_size)


mixer_variants = pytest.mark.parametrize(("name", "options"), MIXERS)
monotonic_variants = pytest.mark.parametrize(
    ("name", "options"), [case for case in MIXERS if samples.component("mixers", *case).monotonic]
)


@mixer_variants
def test_takes_any_leading_axes(name, options):
    _, params, apply = mixer_case(name, options)
    q, state = situations(4, 3)
    out = apply(params, q, state)
    assert samples.signature((out.q_tot, out.penalty)) == (((4, 3), jnp.float32),) * 2
    for t, b in np.ndindex(4, 3):
        alone = apply(params, q[t, b], state[t, b])
        assert alone.q_tot.shape == alone.penalty.shape == ()
        np.testing.assert_allclose(out.q_tot[t, b], alone.q_tot, rtol=1e-4, atol=1e-4)


@monotonic_variants
def test_is_monotonic_where_it_says_so(name, options):
    mixer, _, apply = mixer_case(name, options)
    by_q = jax.jit(jax.grad(lambda *args: jnp.sum(apply(*args).q_tot), argnums=1))
    for seed in range(3):
        params = samples.params(mixer.init, seed)
        slopes = np.asarray(by_q(params, *situations(200, seed=seed)))
        assert slopes.min() >= 0.0 and slopes.max() > 0.0


@monotonic_variants
def test_joint_argmax_is_the_tuple_of_argmaxes(name, options):
    """Individual-global-max, by brute force over all joint actions of 50 situations."""
    _, params, apply = mixer_case(name, options)
    rng = np.random.default_rng(0)
    q, state = 3.0 * samples.normal(rng, 50, N, A), samples.normal(rng, 50, SPEC.state_size)
    actions = np.array(list(itertools.product(range(A), repeat=N)))
    taken = q[:, np.arange(N), actions]
    states = np.repeat(state[:, None], len(actions), axis=1)
    table = np.asarray(apply(params, taken, states).q_tot)
    greedy = (actions == np.argmax(q, axis=-1)[:, None]).all(axis=-1)
    np.testing.assert_allclose(table[greedy], table.max(axis=1), rtol=1e-5, atol=1e-5)
    assert (table.max(axis=1) > table.min(axis=1)).all()


@mixer_variants
def test_gradients_are_finite_and_reach_every_parameter(name, options):
    _, params, apply = mixer_case(name, options)
    gradient = jax.jit(jax.grad(lambda *args: jnp.sum(apply(*args).q_tot)))
    leaves = jax.tree.leaves(gradient(params, *situations(20)))
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in leaves)
