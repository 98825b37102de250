"""GRU and LSTM unrolled over time, with resets."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from qmix_jax.nn import functional, initialisers
from qmix_jax.types import Array


class GateWeights(NamedTuple):
    """Concatenated parameters of G gates: f32[I, GH], f32[H, GH], f32[GH], and a GRU's f32[H].

    The gates are (r, z, n) in a GRU, (i, f, o, g) in an LSTM.
    """

    input_kernel: Array
    recurrent_kernel: Array
    bias: Array
    candidate_bias: Any = ()


class RecurrentState(NamedTuple):
    """State between steps, f32[R, H]: the output and, in an LSTM, the memory cell."""

    hidden: Array
    cell: Any = ()


class GRU(nn.Module):
    """Gated recurrent unit over a sequence; the carry is zeroed before steps that are `reset`.

        r, z = sigmoid(W_rz x + U_rz h + b_rz)
        n    = tanh(W_n x + b_n + r * (U_n h + c_n))
        h'   = (1 - z) * n + z * h

    Attributes:
      features: H.
      hoisted: project all inputs before the scan (see `unroll`).
    Reference: Cho et al. 2014, with the reset gate applied after the recurrent product (as PyTorch
    and flax do). Deviation from PyTorch: one bias for r and z instead of two redundant ones.
    """

    features: int
    hoisted: bool = False

    @nn.compact
    def __call__(self, carry: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        """(f32[R, H], x f32[T, R, I], reset bool[T, R]) -> (carry f32[R, H], h f32[T, R, H])."""
        size = self.features
        init = initialisers.uniform(size**-0.5)
        weights = GateWeights(
            self.param("input_kernel", init, (x.shape[-1], 3 * size)),
            self.param("recurrent_kernel", init, (size, 3 * size)),
            self.param("bias", init, (3 * size,)),
            self.param("candidate_bias", init, (size,)),
        )
        state = RecurrentState(carry)
        hidden, _ = unroll(GRU_CELL, self.hoisted, weights, state, x, reset)  # pyright: ignore
        return hidden[-1], hidden


class LSTM(nn.Module):
    """Long short-term memory over a sequence; the carry is zeroed before steps that are `reset`.

        i, f, o = sigmoid(W_ifo x + U_ifo h + b_ifo)
        g       = tanh(W_g x + U_g h + b_g)
        c'      = f * c + i * g
        h'      = o * tanh(c')

    Attributes:
      features: H.
      hoisted: project all inputs before the scan (see `unroll`).
    Reference: Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000. Deviation
    from PyTorch: one bias instead of two redundant ones; the output gate comes before g.
    """

    features: int
    hoisted: bool = False

    @nn.compact
    def __call__(
        self, carry: RecurrentState, x: Array, reset: Array
    ) -> tuple[RecurrentState, Array]:
        """(carry, x f32[T, R, I], reset bool[T, R]) -> (carry, h f32[T, R, H])."""
        size = self.features
        init = initialisers.uniform(size**-0.5)
        weights = GateWeights(
            self.param("input_kernel", init, (x.shape[-1], 4 * size)),
            self.param("recurrent_kernel", init, (size, 4 * size)),
            self.param("bias", init, (4 * size,)),
        )
        hidden, cell = unroll(LSTM_CELL, self.hoisted, weights, carry, x, reset)  # pyright: ignore
        return RecurrentState(hidden[-1], cell), hidden


class Backward(NamedTuple):
    """Gradients of one step.

    Attributes:
      state: with respect to the previous `RecurrentState`, without the part through the recurrent
        product.
      product: with respect to the recurrent product, f32[R, GH].
      candidate: with respect to a GRU's candidate, f32[R, H].
    """

    state: Any
    product: Array
    candidate: Any = ()


class RecurrentCell(NamedTuple):
    """One step of a recurrence, and its gradient.

    Attributes:
      step: `(weights, RecurrentState, projected input f32[R, GH]) -> (RecurrentState, gates)`; the
        gates are residuals of the gradient.
      back: `(gradient of the next RecurrentState, RecurrentState, gates) -> Backward`.
      finish: `(Backward of all steps [T, ...]) -> (gradient of the projected inputs
        f32[T, R, GH], of the candidate's bias)`.
    """

    step: Callable[[GateWeights, RecurrentState, Array], tuple[RecurrentState, Any]]
    back: Callable[[RecurrentState, RecurrentState, Any], Backward]
    finish: Callable[[Backward], tuple[Array, Any]]


class _GRUGates(NamedTuple):
    """Gates of one step and the recurrent half of the candidate, f32[R, H] each."""

    r: Array
    z: Array
    n: Array
    recurrent_n: Array


def _gru_step(
    weights: GateWeights, before: RecurrentState, projected: Array
) -> tuple[RecurrentState, _GRUGates]:
    size = before.hidden.shape[-1]
    recurrent = before.hidden @ weights.recurrent_kernel
    gates = jax.nn.sigmoid(projected[:, : 2 * size] + recurrent[:, : 2 * size])
    r, z = gates[:, :size], gates[:, size:]
    recurrent_n = recurrent[:, 2 * size :] + weights.candidate_bias[None, :]
    n = jnp.tanh(projected[:, 2 * size :] + r * recurrent_n)
    return RecurrentState((1.0 - z) * n + z * before.hidden), _GRUGates(r, z, n, recurrent_n)


def _gru_back(after_grad: RecurrentState, before: RecurrentState, gates: _GRUGates) -> Backward:
    grad, (r, z, n, recurrent_n) = after_grad.hidden, gates
    n_grad = grad * (1.0 - z) * (1.0 - n * n)
    r_grad = n_grad * recurrent_n * r * (1.0 - r)
    z_grad = grad * (before.hidden - n) * z * (1.0 - z)
    product = jnp.concatenate([r_grad, z_grad, n_grad * r], axis=-1)
    return Backward(RecurrentState(grad * z), product, n_grad)


def _gru_finish(steps: Backward) -> tuple[Array, Array]:
    both = 2 * steps.candidate.shape[-1]
    projected = jnp.concatenate([steps.product[..., :both], steps.candidate], axis=-1)
    return projected, jnp.sum(steps.product[..., both:], axis=(0, 1))


class _LSTMGates(NamedTuple):
    """Gates of one step and the tanh of the new cell, f32[R, H] each."""

    i: Array
    f: Array
    o: Array
    g: Array
    squashed: Array


def _lstm_step(
    weights: GateWeights, before: RecurrentState, projected: Array
) -> tuple[RecurrentState, _LSTMGates]:
    size = before.hidden.shape[-1]
    gates = projected + before.hidden @ weights.recurrent_kernel
    i, f, o = jnp.split(jax.nn.sigmoid(gates[:, : 3 * size]), 3, axis=-1)
    g = jnp.tanh(gates[:, 3 * size :])
    cell = f * before.cell + i * g
    squashed = jnp.tanh(cell)
    return RecurrentState(o * squashed, cell), _LSTMGates(i, f, o, g, squashed)


def _lstm_back(after_grad: RecurrentState, before: RecurrentState, gates: _LSTMGates) -> Backward:
    i, f, o, g, squashed = gates
    cell_grad = after_grad.cell + after_grad.hidden * o * (1.0 - squashed * squashed)
    i_grad = cell_grad * g * i * (1.0 - i)
    f_grad = cell_grad * before.cell * f * (1.0 - f)
    o_grad = after_grad.hidden * squashed * o * (1.0 - o)
    g_grad = cell_grad * i * (1.0 - g * g)
    product = jnp.concatenate([i_grad, f_grad, o_grad, g_grad], axis=-1)
    return Backward(RecurrentState(jnp.zeros_like(o), cell_grad * f), product)


GRU_CELL = RecurrentCell(_gru_step, _gru_back, _gru_finish)
LSTM_CELL = RecurrentCell(_lstm_step, _lstm_back, lambda steps: (steps.product, ()))


def _project(weights: GateWeights, x: Array) -> Array:
    return x @ weights.input_kernel + jnp.expand_dims(weights.bias, range(x.ndim - 1))


def _zero_at_reset(reset: Array, state: RecurrentState) -> RecurrentState:
    return jax.tree.map(lambda x: jnp.where(reset[:, None], 0.0, x), state)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def unroll(
    cell: RecurrentCell,
    hoisted: bool,
    weights: GateWeights,
    state: RecurrentState,
    x: Array,
    reset: Array,
) -> tuple[Array, Any]:
    """Returns the hidden states of a sequence.

    A custom gradient computes the weights' gradients as single matrix products after the backward
    scan instead of accumulating small ones inside it (with T = 64, 160 rows and H = 64 the plain
    scan's gradient took 1.7 times as long for the GRU, 2.2 times for the LSTM); the tests compare
    it with the plain scan.

    Args:
      cell: `GRU_CELL` or `LSTM_CELL`.
      hoisted: project the inputs of all steps in one matrix product before the scan: fewer
        operations per step on accelerators. On a CPU the unroll became 2.6 times slower, since XLA
        does not vectorise slices of a scanned row.
      weights: `GateWeights`.
      state: `RecurrentState`, zeroed where `reset[0]`.
      x: f32[T, R, I].
      reset: bool[T, R], zero the state before step t.
    Returns:
      (hidden f32[T, R, H], the last memory cell f32[R, H] of an LSTM or ()).
    """

    def body(state: RecurrentState, inputs: tuple[Array, Array]) -> tuple[RecurrentState, Array]:
        x_t, reset_t = inputs
        projected = x_t if hoisted else _project(weights, x_t)
        state, _ = cell.step(weights, _zero_at_reset(reset_t, state), projected)
        return state, state.hidden

    last, hidden = jax.lax.scan(body, state, (_project(weights, x) if hoisted else x, reset))
    return hidden, last.cell


class _Residuals(NamedTuple):
    """Residuals of the backward pass: inputs, and states and gates of every step."""

    weights: GateWeights
    x: Array
    reset: Array
    before: RecurrentState
    gates: Any


def _unroll_forward(
    cell: RecurrentCell,
    hoisted: bool,
    weights: GateWeights,
    state: RecurrentState,
    x: Array,
    reset: Array,
) -> tuple[tuple[Array, Any], _Residuals]:
    def body(
        state: RecurrentState, inputs: tuple[Array, Array]
    ) -> tuple[RecurrentState, tuple[Array, RecurrentState, Any]]:
        x_t, reset_t = inputs
        before = _zero_at_reset(reset_t, state)
        state, gates = cell.step(weights, before, x_t if hoisted else _project(weights, x_t))
        return state, (state.hidden, before, gates)

    inputs = _project(weights, x) if hoisted else x
    last, (hidden, before, gates) = jax.lax.scan(body, state, (inputs, reset))
    return (hidden, last.cell), _Residuals(weights, x, reset, before, gates)


def _unroll_backward(
    cell: RecurrentCell, hoisted: bool, residuals: _Residuals, grads: tuple[Array, Any]
) -> tuple[GateWeights, RecurrentState, Array, None]:
    del hoisted
    weights, x, reset, before, gates = residuals
    hidden_grad, last_cell_grad = grads
    recurrent_kernel_t = weights.recurrent_kernel.T

    def body(
        later: RecurrentState, inputs: tuple[Array, Array, RecurrentState, Any]
    ) -> tuple[RecurrentState, Backward]:
        h_grad, reset_t, before_t, gates_t = inputs
        step = cell.back(later._replace(hidden=h_grad + later.hidden), before_t, gates_t)
        through_product = step.product @ recurrent_kernel_t
        grad = step.state._replace(hidden=step.state.hidden + through_product)
        return _zero_at_reset(reset_t, grad), Backward((), step.product, step.candidate)

    last = RecurrentState(jnp.zeros_like(before.hidden[0]), last_cell_grad)
    state_grad, steps = jax.lax.scan(body, last, (hidden_grad, reset, before, gates), reverse=True)
    input_grad, candidate_bias_grad = cell.finish(steps)
    weight_grads = GateWeights(
        # Over rows, not over time and rows, where XLA copies: 52 instead of 62 ms on 2s3z.
        input_kernel=functional.rows(x).T @ functional.rows(input_grad),
        recurrent_kernel=functional.rows(before.hidden).T @ functional.rows(steps.product),
        bias=jnp.sum(input_grad, axis=(0, 1)),
        candidate_bias=candidate_bias_grad,
    )
    return weight_grads, state_grad, input_grad @ weights.input_kernel.T, None


unroll.defvjp(_unroll_forward, _unroll_backward)
