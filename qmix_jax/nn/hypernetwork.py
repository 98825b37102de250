"""Networks that output another network's weights from the state."""

from flax import linen as nn

from qmix_jax.nn import initialisers
from qmix_jax.types import Array


class Hypernetwork(nn.Module):
    """Linear layers with relus between them.

    Attributes:
      features: number of output weights.
      layers: at least 1.
      hidden: width of the hidden layers, if any.
      init_scale: factor on the initial bounds of the last layer.
      output_bias: whether the last layer has a bias.
      layer_norm: LayerNorm before each relu.
    Reference: Ha et al. 2017; Rashid et al. 2018 (QMIX), section 4.1.
    """

    features: int
    layers: int
    hidden: int
    init_scale: float = 1.0
    output_bias: bool = True
    layer_norm: bool = False

    @nn.compact
    def __call__(self, state: Array) -> Array:
        """state f32[..., S] -> f32[..., features]."""
        x = state
        for index in range(self.layers - 1):
            name = f"hidden_{index}" if index else "hidden"
            x = initialisers.Dense(self.hidden, name=name)(x)
            x = nn.relu(nn.LayerNorm(name=f"{name}_norm")(x) if self.layer_norm else x)
        output = initialisers.Dense(self.features, self.init_scale, self.output_bias, name="output")
        return output(x)


def heads(count: int) -> type[Hypernetwork]:
    """Batches `count` independent hypernetworks: f32[..., S] -> f32[..., count, features].

    Parameters have a leading axis of `count`.
    """
    return nn.vmap(
        Hypernetwork,
        in_axes=None,  # pyright: ignore[reportArgumentType]  flax's annotation is too narrow
        out_axes=-2,
        axis_size=count,
        variable_axes={"params": 0},
        split_rngs={"params": True},
    )
