"""The mixer contract."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from qmix_jax import config
from qmix_jax.core import qvalues
from qmix_jax.nn import functional
from qmix_jax.types import Array, EnvSpec, record

Params = Any


@record
class MixerInputs:
    """Inputs of a mixer; any leading axes.

    Attributes:
      q_taken: f32[..., N], utilities of the evaluated actions.
      q_greedy: f32[..., N], utilities of the best available actions of the same network.
      actions: f32[..., N, A], the evaluated actions, one-hot.
      state: f32[..., S].
    """

    q_taken: Array
    q_greedy: Array
    actions: Array
    state: Array


def inputs(q: Array, avail_actions: Array, actions: Array, state: Array) -> MixerInputs:
    """Returns the inputs of a mixer that evaluates `actions`; any leading axes.

    Args:
      q: f32[..., N, A], utilities of one network.
      avail_actions: bool[..., N, A], at least one True per row.
      actions: i32[..., N].
      state: f32[..., S].
    """
    return MixerInputs(
        q_taken=qvalues.take(q, actions),
        q_greedy=jnp.max(jnp.where(avail_actions, q, -jnp.inf), axis=-1),
        actions=jax.nn.one_hot(actions, q.shape[-1]),
        state=state,
    )


@record
class MixerOutput:
    """Output of a mixer.

    Attributes:
      q_tot: f32[...], joint action value.
      penalty: f32[...], added to the loss of the same step (0 for most mixers).
      info: name -> array for analysis only; never enters a loss.
    """

    q_tot: Array
    penalty: Array
    info: dict[str, Array]


class Mixer(NamedTuple):
    """Computes a joint value from utilities.

    Attributes:
      init: `(key) -> params`.
      apply: `(params, MixerInputs[...]) -> MixerOutput[...]`, any leading axes.
      monotonic: q_tot depends on `q_taken` and `state` only, and d q_tot / d q_taken_i >= 0 for all
        i, parameters and states.
      igm: individual-global-max: among available joint actions, that of the agents' best actions
        has the highest q_tot, for all parameters and states. Implied by `monotonic`.
    """

    init: Callable[[Array], Params]
    apply: Callable[[Params, MixerInputs], MixerOutput]
    monotonic: bool
    igm: bool


def absent() -> Mixer:
    """Stands in for a run's mixer when its policy only acts, so that its module is not imported.

    `init` and `apply` raise ConfigError: an algorithm's `make` and `act` must not call them.
    """

    def refuse(*arguments: Any) -> Any:
        del arguments
        raise config.ConfigError(
            "algo: the mixer belongs to training and is not loaded with a policy; an algorithm's "
            "`make` and `act` must not call it"
        )

    return Mixer(refuse, refuse, monotonic=True, igm=True)


def from_module(module: nn.Module, spec: EnvSpec, *, monotonic: bool, igm: bool) -> Mixer:
    """Makes a mixer from a flax module `(MixerInputs[...]) -> MixerOutput[...]`."""
    network_init, network_apply = functional.pure(module)

    def init(key: Array) -> Params:
        q = jnp.zeros((spec.n_agents,))
        actions = jnp.zeros((spec.n_agents, spec.actions.width))
        state = jnp.zeros((spec.state_size,))
        return network_init(key, MixerInputs(q_taken=q, q_greedy=q, actions=actions, state=state))

    return Mixer(init, network_apply, monotonic=monotonic, igm=igm)


def without_penalty(q_tot: Array, **info: Array) -> MixerOutput:
    """Returns the output of a mixer that adds nothing to the loss."""
    return MixerOutput(q_tot=q_tot, penalty=jnp.zeros_like(q_tot), info=info)


def in_bfloat16(mixer: Mixer) -> Mixer:
    """Returns the mixer computing in bfloat16; parameters, inputs and outputs stay f32."""

    def apply(params: Params, inputs: MixerInputs) -> MixerOutput:
        params, inputs = functional.cast((params, inputs), jnp.bfloat16)
        return functional.cast(mixer.apply(params, inputs), jnp.float32)

    return mixer._replace(apply=apply)
