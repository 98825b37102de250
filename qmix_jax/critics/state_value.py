"""Value of the state: V(s) = MLP(s)."""

import jax.numpy as jnp

from qmix_jax.critics import base
from qmix_jax.nn import functional, mlp
from qmix_jax.types import EnvSpec


def make(spec: EnvSpec, hidden: int, layers: int) -> base.Critic:
    """Makes the critic, f32[..., 1], which uses `state`.

    Args:
      hidden, layers: width and number of the hidden layers.
    """
    init, apply = functional.pure(mlp.MLP(1, hidden, layers))
    return base.Critic(
        init=lambda key: init(key, jnp.zeros((spec.state_size,))),
        apply=lambda params, inputs: apply(params, inputs.state),
    )
