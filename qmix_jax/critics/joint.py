"""Joint action value from the state and the agents' hidden states and actions.

    Q(s, u) = MLP([s, sum_i encoder([h_i, u_i])])

Reference: Son et al. 2019 (QTRAN), the joint network as in PyMARL. Deviation: none.
"""

import jax.numpy as jnp
from flax import linen as nn

from qmix_jax.critics import base
from qmix_jax.nn import mlp
from qmix_jax.types import Array, EnvSpec


class _JointNetwork(nn.Module):
    hidden: int
    layers: int

    @nn.compact
    def __call__(self, inputs: base.CriticInputs) -> Array:
        agents = jnp.concatenate([inputs.hidden, inputs.actions], axis=-1)
        width = agents.shape[-1]
        encoded = mlp.MLP(width, width, 1, name="encoder")(agents)
        x = jnp.concatenate([inputs.state, jnp.sum(encoded, axis=-2)], axis=-1)
        return mlp.MLP(1, self.hidden, self.layers, name="q")(x)


def make(spec: EnvSpec, agent_hidden: int, hidden: int, layers: int) -> base.Critic:
    """Makes the critic, f32[..., 1], which uses `state`, `hidden` and `actions`.

    Args:
      agent_hidden: H, width of the agents' hidden states.
      hidden, layers: width and number of the hidden layers.
    """
    return base.from_module(_JointNetwork(hidden, layers), spec, agent_hidden)
