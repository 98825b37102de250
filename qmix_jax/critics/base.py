"""The critic contract: central networks used in training only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from qmix_jax.nn import functional
from qmix_jax.types import Array, EnvSpec, record

Params = Any


@record
class CriticInputs:
    """Inputs of a critic; any leading axes. Each critic states which fields it uses; the others may
    be None.

    Attributes:
      state: f32[..., S].
      obs: f32[..., N, *O].
      hidden: f32[..., N, H], the agents' hidden states.
      actions: f32[..., N, D], features of the joint action: one-hot, relaxed or continuous, so
        gradients pass.
      prev_actions: f32[..., N, D], features of the joint action before it.
      q_taken: f32[..., N], one utility per agent.
    """

    state: Any = None
    obs: Any = None
    hidden: Any = None
    actions: Any = None
    prev_actions: Any = None
    q_taken: Any = None


class Critic(NamedTuple):
    """A central network.

    Attributes:
      init: `(key) -> params`.
      apply: `(params, CriticInputs[...]) -> f32[..., N, K]`, a row per agent, or `f32[..., K]`.
    """

    init: Callable[[Array], Params]
    apply: Callable[[Params, CriticInputs], Array]


def from_module(module: nn.Module, spec: EnvSpec, hidden: int = 0) -> Critic:
    """Makes a critic from a flax module `(CriticInputs[...]) -> f32[...]`.

    Args:
      spec: sizes of its inputs.
      hidden: H, width of the agents' hidden states.
    """
    network_init, network_apply = functional.pure(module)

    def init(key: Array) -> Params:
        n, width = spec.n_agents, spec.actions.width
        inputs = CriticInputs(
            state=jnp.zeros((spec.state_size,)),
            obs=jnp.zeros((n, *spec.obs_shape)),
            hidden=jnp.zeros((n, hidden)),
            actions=jnp.zeros((n, width)),
            prev_actions=jnp.zeros((n, width)),
            q_taken=jnp.zeros((n,)),
        )
        return network_init(key, inputs)

    return Critic(init, network_apply)
