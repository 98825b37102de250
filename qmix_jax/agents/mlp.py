"""Feed-forward agent: Dense-relu layers and a linear head.

Reference: Rashid et al. 2018 (QMIX), appendix (two-step game). Deviation: none.
"""

from flax import linen as nn

from qmix_jax import config
from qmix_jax.agents import base
from qmix_jax.nn import initialisers, torso
from qmix_jax.types import Array, EnvSpec


class Config(base.Config):
    """Options of the feed-forward agent."""

    layers: config.PositiveInt = 1
    """Number of hidden layers."""
    last_action: bool = False
    """Append the one-hot last action to the observation."""


class _FeedForwardNetwork(nn.Module):
    torso: torso.Torso
    width: int

    @nn.compact
    def __call__(self, carry: tuple[()], x: Array, reset: Array) -> tuple[tuple[()], Array, Array]:
        del reset
        hidden = torso.embed(self.torso, x)
        return carry, initialisers.Dense(self.width, name="head")(hidden), hidden


def layer_names(cfg: Config) -> tuple[str, ...]:
    """Names of the Dense layers before the head."""
    return tuple(f"hidden_{index}" for index in range(cfg.layers))


def make(cfg: Config, spec: EnvSpec, width: int) -> base.Agent:
    """Makes the agent; its carry is empty."""
    network = _FeedForwardNetwork(base.make_torso(cfg, spec, layer_names(cfg)), width)
    return base.make(cfg, spec, network, lambda *leading: ())
