"""Dense-relu layers with a linear output."""

from flax import linen as nn

from qmix_jax.nn import initialisers
from qmix_jax.types import Array


class MLP(nn.Module):
    """Dense-relu layers with a linear output.

    Attributes:
      features: output width.
      hidden: width of each hidden layer.
      layers: number of hidden layers.
    """

    features: int
    hidden: int
    layers: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """f32[..., I] -> f32[..., features]."""
        for index in range(self.layers):
            x = nn.relu(initialisers.Dense(self.hidden, name=f"hidden_{index}")(x))
        return initialisers.Dense(self.features, name="output")(x)
