"""Networks that output another network's weights from the state."""

from flax import linen as nn

from qmix_jax.nn import initialisers
from qmix_jax.types import Array


class Hypernetwork(nn.Module):
    """One linear layer, or Dense-relu-Dense.

    Attributes:
      features: number of weights to output.
      layers: 1 or 2.
      hidden: width of the hidden layer where there are two.
      init_scale: factor on the initial bounds of the last layer.
    Reference: Ha et al. 2017; Rashid et al. 2018 (QMIX), section 4.1.
    """

    features: int
    layers: int
    hidden: int
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, state: Array) -> Array:
        """state f32[..., S] -> f32[..., features]."""
        x = state
        if self.layers == 2:
            x = nn.relu(initialisers.Dense(self.hidden, name="hidden")(state))
        return initialisers.Dense(self.features, self.init_scale, name="output")(x)
