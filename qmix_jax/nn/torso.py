"""Torso of an agent network: convolutions over an image, then Dense-relu layers."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from qmix_jax.nn import initialisers
from qmix_jax.types import Array


class CNNSpec(NamedTuple):
    """Sizes of a CNN.

    Attributes:
      shape: (height, width, channels) of the image.
      channels: output channels of each convolution, with stride 1 and zero padding to equal size,
        since game grids are small.
      kernel: height and width of each convolution.
      features: width of the Dense layer after them.
    """

    shape: tuple[int, ...]
    channels: tuple[int, ...]
    kernel: int
    features: int


class Torso(NamedTuple):
    """Layers of a torso.

    Attributes:
      names: of the Dense layers, at least one.
      features: width of the Dense layers.
      layer_norm: LayerNorm (Ba et al. 2016) before every relu.
      image: sizes of the CNN over the leading columns of the input; None for plain vectors.
    """

    names: tuple[str, ...]
    features: int
    layer_norm: bool = False
    image: CNNSpec | None = None


class CNN(nn.Module):
    """Convolution-relu layers and one Dense-relu layer, with PyTorch's default initialisation."""

    image: CNNSpec
    layer_norm: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """f32[..., height, width, channels] -> f32[..., features]."""
        kernel = (self.image.kernel, self.image.kernel)
        for index, channels in enumerate(self.image.channels):
            init = initialisers.uniform((x.shape[-1] * self.image.kernel**2) ** -0.5)
            name = f"conv_{index}"
            x = nn.Conv(channels, kernel, kernel_init=init, bias_init=init, name=name)(x)
            x = _relu(x, self.layer_norm, name)
        flat = x.reshape(*x.shape[:-3], -1)
        dense = initialisers.Dense(self.image.features, name="dense")(flat)
        return _relu(dense, self.layer_norm, "dense")


def embed(torso: Torso, x: Array) -> Array:
    """Applies the layers as submodules of the module in whose method it is called.

    Args:
      x: f32[..., I]; entries of the image, if any, come first.
    Returns:
      f32[..., torso.features].
    """
    if torso.image is not None:
        height, width, channels = torso.image.shape
        size = height * width * channels
        image = x[..., :size].reshape(*x.shape[:-1], height, width, channels)
        embedded = CNN(torso.image, torso.layer_norm, name="torso")(image)
        x = jnp.concatenate([embedded, x[..., size:]], axis=-1)
    for name in torso.names:
        x = _relu(initialisers.Dense(torso.features, name=name)(x), torso.layer_norm, name)
    return x


def _relu(x: Array, layer_norm: bool, name: str) -> Array:
    return nn.relu(nn.LayerNorm(name=f"{name}_norm")(x) if layer_norm else x)
