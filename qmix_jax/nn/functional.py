"""A flax module as two plain functions."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn


def pure(module: nn.Module) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`(init(key, *inputs) -> params, apply(params, *inputs) -> outputs)`; params are dicts."""

    def init(key: Any, *inputs: Any) -> Any:
        return module.init(key, *inputs)["params"]

    def apply(params: Any, *inputs: Any) -> Any:
        return module.apply({"params": params}, *inputs)

    return init, apply
