"""Flax modules as pure functions, casts of trees, and an affine map with a fast gradient."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from qmix_jax.types import Array

T = TypeVar("T")


def pure(module: nn.Module) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns `init(key, *inputs) -> params` and `apply(params, *inputs) -> outputs` of a module;
    params are dicts.
    """

    def init(key: Any, *inputs: Any) -> Any:
        return module.init(key, *inputs)["params"]

    def apply(params: Any, *inputs: Any) -> Any:
        # JAX refuses NumPy constants in the gradient of a custom_vjp under vmap.
        return module.apply({"params": jax.tree.map(jnp.asarray, params)}, *inputs)

    return init, apply


def cast(tree: T, dtype: Any) -> T:
    """Casts the floating-point leaves of a tree to `dtype`."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def rows(x: Array) -> Array:
    """Flattens the leading axes: f32[..., I] -> f32[R, I]."""
    return x.reshape(-1, x.shape[-1])


@jax.custom_vjp
def affine(x: Array, kernel: Array, bias: Array) -> Array:
    """`x @ kernel + bias`, f32[..., I] -> f32[..., O].

    The gradient of the kernel is one product over all rows (reverse mode only). Autodiff sums over
    each leading axis, which XLA on a CPU turns into transposed copies: an update on SMAX 2s3z took
    102 ms with it and 98 ms without.
    """
    return x @ kernel + jnp.expand_dims(bias, range(x.ndim - 1))


def _affine_forward(x: Array, kernel: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    return affine(x, kernel, bias), (x, kernel)


def _affine_backward(
    residuals: tuple[Array, Array], output_grad: Array
) -> tuple[Array, Array, Array]:
    x, kernel = residuals
    by_row = rows(output_grad)
    return output_grad @ kernel.T, rows(x).T @ by_row, jnp.sum(by_row, axis=0)


affine.defvjp(_affine_forward, _affine_backward)
