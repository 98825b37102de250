"""Reset-aware GRU unrolled over time."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from qmix_jax.nn import functional, initialisers
from qmix_jax.types import Array


class Weights(NamedTuple):
    """GRU parameters, gates in the order (r, z, n): f32[I, 3H], f32[H, 3H], f32[3H], f32[H]."""

    input_kernel: Array
    recurrent_kernel: Array
    bias: Array
    candidate_bias: Array


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
        weights = Weights(
            self.param("input_kernel", init, (x.shape[-1], 3 * size)),
            self.param("recurrent_kernel", init, (size, 3 * size)),
            self.param("bias", init, (3 * size,)),
            self.param("candidate_bias", init, (size,)),
        )
        hidden: Array = unroll(self.hoisted, weights, carry, x, reset)  # pyright: ignore
        return hidden[-1], hidden


class _Gates(NamedTuple):
    """One step's gates and the recurrent half of the candidate, f32[R, H] each."""

    r: Array
    z: Array
    n: Array
    recurrent_n: Array


def _project(weights: Weights, x: Array) -> Array:
    return x @ weights.input_kernel + jnp.expand_dims(weights.bias, range(x.ndim - 1))


def _step(weights: Weights, carry: Array, projected: Array) -> tuple[Array, _Gates]:
    size = carry.shape[-1]
    recurrent = carry @ weights.recurrent_kernel
    gates = jax.nn.sigmoid(projected[:, : 2 * size] + recurrent[:, : 2 * size])
    r, z = gates[:, :size], gates[:, size:]
    recurrent_n = recurrent[:, 2 * size :] + weights.candidate_bias[None, :]
    n = jnp.tanh(projected[:, 2 * size :] + r * recurrent_n)
    return (1.0 - z) * n + z * carry, _Gates(r, z, n, recurrent_n)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def unroll(hoisted: bool, weights: Weights, carry: Array, x: Array, reset: Array) -> Array:
    """Hidden states of a whole sequence.

    The gradient is written out so that the weights' gradients are single matrix products after the
    backward scan instead of small ones accumulated inside it; `tests` hold the plain scan as
    oracle.

    Args:
      hoisted: project the inputs of all steps in one matrix product before the scan, which then has
        fewer operations per step (accelerators). On a CPU that made the unroll 2.6 times slower:
        XLA does not vectorise slices of a scanned row.
      weights: `Weights`.
      carry: f32[R, H], zeroed where `reset[0]`.
      x: f32[T, R, I].
      reset: bool[T, R], zero the carry before step t.
    Returns:
      f32[T, R, H].
    """

    def body(carry: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        x_t, reset_t = inputs
        projected = x_t if hoisted else _project(weights, x_t)
        carry, _ = _step(weights, jnp.where(reset_t[:, None], 0.0, carry), projected)
        return carry, carry

    return jax.lax.scan(body, carry, (_project(weights, x) if hoisted else x, reset))[1]


def _unroll_forward(
    hoisted: bool, weights: Weights, carry: Array, x: Array, reset: Array
) -> tuple[Array, tuple[Weights, Array, Array, Array, _Gates]]:
    def body(
        carry: Array, inputs: tuple[Array, Array]
    ) -> tuple[Array, tuple[Array, Array, _Gates]]:
        x_t, reset_t = inputs
        before = jnp.where(reset_t[:, None], 0.0, carry)
        carry, gates = _step(weights, before, x_t if hoisted else _project(weights, x_t))
        return carry, (carry, before, gates)

    inputs = _project(weights, x) if hoisted else x
    _, (hidden, before, gates) = jax.lax.scan(body, carry, (inputs, reset))
    return hidden, (weights, x, reset, before, gates)


def _unroll_backward(
    hoisted: bool,
    residuals: tuple[Weights, Array, Array, Array, _Gates],
    hidden_grad: Array,
) -> tuple[Weights, Array, Array, None]:
    del hoisted
    weights, x, reset, before, gates = residuals
    recurrent_kernel_t = weights.recurrent_kernel.T

    def body(
        carry_grad: Array, inputs: tuple[Array, Array, Array, _Gates]
    ) -> tuple[Array, tuple[Array, Array]]:
        h_grad, reset_t, before_t, (r, z, n, recurrent_n) = inputs
        grad = h_grad + carry_grad
        n_grad = grad * (1.0 - z) * (1.0 - n * n)
        r_grad = n_grad * recurrent_n * r * (1.0 - r)
        z_grad = grad * (before_t - n) * z * (1.0 - z)
        recurrent_grad = jnp.concatenate([r_grad, z_grad, n_grad * r], axis=-1)
        carry_grad = grad * z + recurrent_grad @ recurrent_kernel_t
        return jnp.where(reset_t[:, None], 0.0, carry_grad), (recurrent_grad, n_grad)

    carry_grad, (recurrent_grad, n_grad) = jax.lax.scan(
        body, jnp.zeros_like(before[0]), (hidden_grad, reset, before, gates), reverse=True
    )
    size = before.shape[-1]
    input_grad = jnp.concatenate([recurrent_grad[..., : 2 * size], n_grad], axis=-1)
    weight_grads = Weights(
        # Over rows, not over time and rows: XLA would copy: 62 instead of 52 ms on 2s3z.
        input_kernel=functional.rows(x).T @ functional.rows(input_grad),
        recurrent_kernel=functional.rows(before).T @ functional.rows(recurrent_grad),
        bias=jnp.sum(input_grad, axis=(0, 1)),
        candidate_bias=jnp.sum(recurrent_grad[..., 2 * size :], axis=(0, 1)),
    )
    return weight_grads, carry_grad, input_grad @ weights.input_kernel.T, None


unroll.defvjp(_unroll_forward, _unroll_backward)
