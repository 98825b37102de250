"""Unrestricted joint action value from the state and one utility per agent.

    Q*(s, u) = MLP([s, q_1(u_1), ..., q_N(u_N)]) + MLP_v(s)

Reference: Rashid et al. 2020 (weighted QMIX). Deviation: none.
"""

import jax.numpy as jnp
from flax import linen as nn

from qmix_jax.critics import base
from qmix_jax.nn import mlp
from qmix_jax.types import Array, EnvSpec


class _CentralNetwork(nn.Module):
    hidden: int
    layers: int

    @nn.compact
    def __call__(self, inputs: base.CriticInputs) -> Array:
        x = jnp.concatenate([inputs.state, inputs.q_taken], axis=-1)
        q = mlp.MLP(1, self.hidden, self.layers, name="q")(x)
        return q + mlp.MLP(1, self.hidden, 1, name="v")(inputs.state)


def make(spec: EnvSpec, hidden: int, layers: int) -> base.Critic:
    """Makes the critic, f32[..., 1], which uses `state` and `q_taken`.

    Args:
      hidden, layers: width and number of the hidden layers.
    """
    return base.from_module(_CentralNetwork(hidden, layers), spec)
