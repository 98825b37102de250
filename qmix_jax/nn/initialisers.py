"""Uniform initialisers; the batched QR of orthogonal ones can hang jaxlib 0.10 on two cores."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn

from qmix_jax.nn import functional
from qmix_jax.types import Array


def uniform(bound: float) -> Callable[..., Array]:
    """Returns the initialiser `(key, shape[, dtype]) -> U(-bound, +bound)`; PyTorch's default has
    `bound = 1/sqrt(fan_in)`.
    """
    return partial(jax.random.uniform, minval=-bound, maxval=bound)


class Dense(nn.Module):
    """Affine layer with PyTorch's default initialisation (the papers' choice).

    Attributes:
      features: output width.
      scale: factor on the initial kernel and bias bounds.
      use_bias: False for a linear layer.
    """

    features: int
    scale: float = 1.0
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """f32[..., I] -> f32[..., features]."""
        init = uniform(self.scale / x.shape[-1] ** 0.5)
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        if self.use_bias:
            bias = self.param("bias", init, (self.features,))
        else:
            bias = jnp.zeros((self.features,), kernel.dtype)
        return functional.affine(x, kernel, bias)
