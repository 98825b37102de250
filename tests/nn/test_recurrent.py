"""Recurrences with resets, and their custom gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import linen as nn

from qmix_jax.nn import functional, recurrent

T, R, I, H = 12, 5, 3, 4  # noqa: E741


class Problem(NamedTuple):
    """A live state, inputs, and episode starts anywhere; `step` is the oracle's."""

    cell: recurrent.RecurrentCell
    step: Any
    weights: recurrent.GateWeights
    state: recurrent.RecurrentState
    x: Any
    reset: Any


def draw(kind):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape, dtype=np.float32))

    reset = np.zeros((T, R), bool)
    for row, starts in enumerate([(0, 5), (3,), (0, 1, 2, 8), (T - 1,), (4, 9)]):
        reset[list(starts), row] = True
    gates = {"gru": 3, "lstm": 4}[kind]
    weights = recurrent.GateWeights(normal(I, gates * H), normal(H, gates * H), normal(gates * H))
    cell, state = recurrent.LSTM_CELL, recurrent.RecurrentState(normal(R, H), normal(R, H))
    if kind == "gru":
        cell, state = recurrent.GRU_CELL, recurrent.RecurrentState(state.hidden)
        weights = weights._replace(candidate_bias=normal(H))
    return Problem(cell, oracles.STEPS[kind], weights, state, normal(T, R, I), jnp.asarray(reset))


PROBLEMS = {kind: draw(kind) for kind in ("gru", "lstm")}


@pytest.fixture(params=[False, True], ids=["in_scan", "hoisted"])
def hoisted(request):
    return request.param


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]


compiled = jax.jit(recurrent.unroll, static_argnums=(0, 1))


def unroll(problem, hoisted, weights, state, x, reset):
    return compiled(problem.cell, hoisted, weights, state, x, reset)


def plain_scan(problem, weights, state, x, reset):
    """The same recurrence, differentiated by JAX."""

    def step(state, inputs):
        x_t, reset_t = inputs
        state = jax.tree.map(lambda leaf: jnp.where(reset_t[:, None], 0.0, leaf), state)
        projected = x_t @ weights.input_kernel + weights.bias[None]
        state, _ = problem.cell.step(weights, state, projected)
        return state, state.hidden

    last, hidden = jax.lax.scan(step, state, (x, reset))
    return hidden, last.cell


def test_agrees_with_a_loop(problem, hoisted):
    hidden, cell = unroll(problem, hoisted, *problem[2:])
    carry = oracles.double(jnp.concatenate(jax.tree.leaves(problem.state), axis=-1))
    weights, x = oracles.double((problem.weights._asdict(), problem.x))
    expected = oracles.recurrent(problem.step, weights, carry, x, problem.reset)
    np.testing.assert_allclose(hidden, expected[..., :H], rtol=1e-5, atol=1e-6)
    for leaf in jax.tree.leaves(cell):
        np.testing.assert_allclose(leaf, expected[-1, :, H:], rtol=1e-5, atol=1e-6)


def test_the_forward_pass_of_the_gradient_is_the_same(problem, hoisted):
    *arguments, reset = problem[2:]

    @jax.jit
    def forward(*args):
        return jax.vjp(lambda *args: unroll(problem, hoisted, *args, reset), *args)[0]

    value = forward(*arguments)
    jax.tree.map(np.testing.assert_array_equal, value, unroll(problem, hoisted, *problem[2:]))


def test_the_custom_gradient_equals_that_of_the_plain_scan(problem, hoisted):
    """Of the hidden states and of the last memory cell."""
    *arguments, reset = problem[2:]
    weight = jax.random.normal(jax.random.key(1), (T, R, H))

    def gradients(function):
        def objective(*args):
            hidden, cell = function(*args, reset)
            return jnp.sum(hidden * weight) + sum(map(jnp.sum, jax.tree.leaves(cell)))

        return jax.jit(jax.grad(objective, argnums=(0, 1, 2)))(*arguments)

    custom = gradients(lambda *args: unroll(problem, hoisted, *args))
    expected = gradients(lambda *args: plain_scan(problem, *args))
    paths = jax.tree_util.tree_leaves_with_path(expected)
    for (path, leaf), ours in zip(paths, jax.tree.leaves(custom), strict=True):
        error = jnp.linalg.norm(ours - leaf) / jnp.linalg.norm(leaf)
        assert error < 1e-5, f"{jax.tree_util.keystr(path)}: relative error {error}"


def test_no_gradient_crosses_a_reset(problem, hoisted):
    def last(x):
        args = problem._replace(x=x)[2:]
        return jnp.sum(unroll(problem, hoisted, *args)[0][-1])

    gradient = np.asarray(jax.jit(jax.grad(last))(problem.x))
    for row in range(R):
        start = np.flatnonzero(problem.reset[:, row])[-1]
        np.testing.assert_array_equal(gradient[:start, row], 0.0)
        assert np.abs(gradient[start:, row]).min() > 0.0


def split(weights, gates):
    """Parameters as flax names them, by gate; `gates` in the order of the weights."""
    parts = [jnp.split(leaf, len(gates), axis=-1) for leaf in weights[:3]]
    return {gate: (into, within, bias) for gate, into, within, bias in zip(gates, *parts)}  # noqa: B905


def test_gru_equals_flax(hoisted):
    """Parity with `flax.linen.GRUCell`, which splits the same parameters by gate."""
    problem = PROBLEMS["gru"]
    params = {}
    for gate, (into, within, bias) in split(problem.weights, "rzn").items():
        params[f"i{gate}"] = {"kernel": into, "bias": bias}
        params[f"h{gate}"] = {"kernel": within}
    params["hn"]["bias"] = problem.weights.candidate_bias
    ours, _ = unroll(problem, hoisted, *problem[2:5], jnp.zeros((T, R), bool))
    carry = problem.state.hidden
    step = jax.jit(nn.GRUCell(H).apply)
    for t in range(T):
        carry, _ = step({"params": params}, carry, problem.x[t])
        np.testing.assert_allclose(ours[t], carry, rtol=1e-5, atol=1e-6)


def test_lstm_equals_flax(hoisted):
    """Parity with `flax.linen.LSTMCell`, whose carry is (cell, hidden)."""
    problem = PROBLEMS["lstm"]
    params = {}
    for gate, (into, within, bias) in split(problem.weights, "ifog").items():
        params[f"i{gate}"] = {"kernel": into}
        params[f"h{gate}"] = {"kernel": within, "bias": bias}
    ours, cell = unroll(problem, hoisted, *problem[2:5], jnp.zeros((T, R), bool))
    carry = problem.state.cell, problem.state.hidden
    step = jax.jit(nn.LSTMCell(H).apply)
    for t in range(T):
        carry, hidden = step({"params": params}, carry, problem.x[t])
        np.testing.assert_allclose(ours[t], hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(cell, carry[0], rtol=1e-5, atol=1e-6)


def test_joined_episodes_are_separate_episodes(problem, hoisted):
    starts = (0, 4, 8)
    reset = jnp.zeros((T, R), bool).at[np.array(starts)].set(True)
    joined, last_cell = unroll(problem, hoisted, *problem[2:5], reset)
    nothing = jax.tree.map(jnp.zeros_like, problem.state)
    for start, end in zip(starts, (*starts[1:], T), strict=True):
        x, none = problem.x[start:end], jnp.zeros((end - start, R), bool)
        alone, cell = unroll(problem, hoisted, problem.weights, nothing, x, none)
        np.testing.assert_allclose(joined[start:end], alone, rtol=0, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), last_cell, cell)


@pytest.mark.parametrize(
    ("layer", "n_gates", "n_params"),
    [(recurrent.GRU(64), 3, 48 * 192 + 64 * 192 + 192 + 64),
     (recurrent.LSTM(64), 4, 48 * 256 + 64 * 256 + 256)],
)  # fmt: skip
def test_module_returns_the_last_state_and_starts_within_pytorchs_bounds(layer, n_gates, n_params):
    init, apply = functional.pure(layer)
    x, reset = jnp.ones((2, R, 48)), jnp.zeros((2, R), bool)
    zeros = jnp.zeros((R, 64))
    carry = zeros if n_gates == 3 else recurrent.RecurrentState(zeros, zeros)
    params = init(jax.random.key(0), carry, x, reset)
    last, hidden = jax.jit(apply)(params, carry, x, reset)
    assert jax.tree.structure(last) == jax.tree.structure(carry)
    np.testing.assert_array_equal(jax.tree.leaves(last)[0], hidden[-1])
    bound = 1.0 / np.sqrt(64)
    for name, leaf in params.items():
        assert 0.9 * bound < np.abs(leaf).max() <= bound, name
        np.testing.assert_allclose(np.std(leaf), bound / np.sqrt(3), rtol=0.2, err_msg=name)
    assert sum(leaf.size for leaf in params.values()) == n_params
