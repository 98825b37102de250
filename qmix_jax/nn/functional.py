"""Flax modules as plain functions, and trees in other precision."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

T = TypeVar("T")


def pure(module: nn.Module) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`(init(key, *inputs) -> params, apply(params, *inputs) -> outputs)`; params are dicts."""

    def init(key: Any, *inputs: Any) -> Any:
        return module.init(key, *inputs)["params"]

    def apply(params: Any, *inputs: Any) -> Any:
        return module.apply({"params": params}, *inputs)

    return init, apply


def cast(tree: T, dtype: Any) -> T:
    """The tree with its floating-point leaves in `dtype`."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )
