"""The reset-aware GRU and its written gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import linen as nn

from qmix_jax.nn import functional, recurrent

T, R, I, H = 12, 5, 3, 4  # noqa: E741


@pytest.fixture(params=[False, True], ids=["in_scan", "hoisted"])
def unroll(request):
    """`recurrent.unroll` in each formulation."""
    return functools.partial(recurrent.unroll, request.param)


@pytest.fixture(scope="module")
def problem():
    """(weights, carry, x, reset) with a live carry and episode starts anywhere."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape, dtype=np.float32))

    weights = recurrent.Weights(normal(I, 3 * H), normal(H, 3 * H), normal(3 * H), normal(H))
    reset = np.zeros((T, R), bool)
    for row, starts in enumerate([(0, 5), (3,), (0, 1, 2, 8), (T - 1,), (4, 9)]):
        reset[list(starts), row] = True
    return weights, normal(R, H), normal(T, R, I), jnp.asarray(reset)


def plain_scan(weights, carry, x, reset):
    """The same recurrence, differentiated by JAX."""

    def step(h, inputs):
        x_t, reset_t = inputs
        h = jnp.where(reset_t[:, None], 0.0, h)
        from_x = x_t @ weights.input_kernel + weights.bias[None]
        from_h = h @ weights.recurrent_kernel
        r = jax.nn.sigmoid(from_x[:, :H] + from_h[:, :H])
        z = jax.nn.sigmoid(from_x[:, H : 2 * H] + from_h[:, H : 2 * H])
        n = jnp.tanh(from_x[:, 2 * H :] + r * (from_h[:, 2 * H :] + weights.candidate_bias[None]))
        h = (1.0 - z) * n + z * h
        return h, h

    return jax.lax.scan(step, carry, (x, reset))[1]


def test_agrees_with_a_loop(problem, unroll):
    weights, carry, x, reset = problem
    expected = oracles.gru(
        oracles.double(weights._asdict()), *map(np.asarray, oracles.double((carry, x))), reset
    )
    np.testing.assert_allclose(unroll(*problem), expected, rtol=1e-5, atol=1e-6)


def test_the_forward_pass_of_the_gradient_is_the_same(problem, unroll):
    value, _ = jax.vjp(lambda *args: unroll(*args, problem[-1]), *problem[:-1])
    np.testing.assert_array_equal(value, unroll(*problem))


def test_the_written_gradient_is_the_plain_scans(problem, unroll):
    weights, carry, x, reset = problem
    cotangent = jax.random.normal(jax.random.key(1), (T, R, H))

    def gradients(function):
        def objective(weights, carry, x):
            return jnp.sum(function(weights, carry, x, reset) * cotangent)

        return jax.jit(jax.grad(objective, argnums=(0, 1, 2)))(weights, carry, x)

    written, expected = gradients(unroll), gradients(plain_scan)
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, right), ours in zip(paths, jax.tree.leaves(written), strict=True):
        error = jnp.linalg.norm(ours - right) / jnp.linalg.norm(right)
        assert error < 1e-5, f"{jax.tree_util.keystr(path)}: relative error {error}"


def test_no_gradient_crosses_a_reset(problem, unroll):
    weights, carry, x, reset = problem

    def last(x):
        return jnp.sum(unroll(weights, carry, x, reset)[-1])

    gradient = np.asarray(jax.grad(last)(x))
    for row in range(R):
        start = np.flatnonzero(reset[:, row])[-1]
        np.testing.assert_array_equal(gradient[:start, row], 0.0)
        assert np.abs(gradient[start:, row]).min() > 0.0


def test_is_flaxs_gru(problem, unroll):
    """Parity with `flax.linen.GRUCell`, which splits the same parameters by gate."""
    weights, carry, x, _ = problem
    into, within = (jnp.split(k, 3, axis=-1) for k in weights[:2])
    bias = jnp.split(weights.bias, 3)
    params = {
        **{f"i{gate}": {"kernel": into[i], "bias": bias[i]} for i, gate in enumerate("rzn")},
        **{f"h{gate}": {"kernel": within[i]} for i, gate in enumerate("rz")},
        "hn": {"kernel": within[2], "bias": weights.candidate_bias},
    }
    ours = unroll(weights, carry, x, jnp.zeros((T, R), bool))
    for t in range(3):
        carry, _ = nn.GRUCell(H).apply({"params": params}, carry, x[t])
        np.testing.assert_allclose(ours[t], carry, rtol=1e-5, atol=1e-6)


def test_joined_episodes_are_separate_episodes(problem, unroll):
    weights, carry, x, _ = problem
    starts = (0, 4, 9)
    reset = jnp.zeros((T, R), bool).at[np.array(starts)].set(True)
    joined = unroll(weights, carry, x, reset)
    for start, end in zip(starts, (*starts[1:], T), strict=True):
        alone = unroll(weights, jnp.zeros((R, H)), x[start:end], jnp.zeros((end - start, R), bool))
        np.testing.assert_allclose(joined[start:end], alone, rtol=0, atol=1e-6)


def test_module_returns_the_last_hidden_state_and_starts_within_pytorchs_bounds():
    init, apply = functional.pure(recurrent.GRU(64))
    x, reset = jnp.ones((2, R, 48)), jnp.zeros((2, R), bool)
    params = init(jax.random.key(0), jnp.zeros((R, 64)), x, reset)
    carry, hidden = apply(params, jnp.zeros((R, 64)), x, reset)
    np.testing.assert_array_equal(carry, hidden[-1])
    bound = 1.0 / np.sqrt(64)
    for name, leaf in params.items():
        assert 0.9 * bound < np.abs(leaf).max() <= bound, name
        np.testing.assert_allclose(np.std(leaf), bound / np.sqrt(3), rtol=0.2, err_msg=name)
    assert sum(leaf.size for leaf in params.values()) == 48 * 192 + 64 * 192 + 192 + 64
