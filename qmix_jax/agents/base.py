"""The agent contract and what agents share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax.types import Array, Trajectory

Params = Any
Carry = Any


class Agent(NamedTuple):
    """Per-agent utilities from local histories; parameters are shared by all agents.

    Attributes:
      init: `(key) -> params`.
      initial_carry: `(batch_size) -> carry`.
      unroll: `(params, carry, obs f32[T, B, N, *O], prev_actions i32[T, B, N], reset bool[T, B])
        -> (carry, q f32[T, B, N, A], hidden f32[T, B, N, H])`. The carry is zeroed before steps
        that are `reset`; the agent adds last-action and id features itself (action -1 means none).
    """

    init: Callable[[Array], Params]
    initial_carry: Callable[[int], Carry]
    unroll: Callable[[Params, Carry, Array, Array, Array], tuple[Carry, Array, Array]]


def features(
    obs: Array, prev_actions: Array, n_actions: int, last_action: bool, agent_id: bool
) -> Array:
    """Observation with the one-hot last action (zeros where there is none) and agent id.

    Args:
      obs: f32[..., N, O];  prev_actions: i32[..., N], -1 = none.
      n_actions: A.  last_action, agent_id: which features to append.
    Returns:
      f32[..., N, O (+ A) (+ N)].
    """
    parts = [obs]
    if last_action:
        parts.append(jax.nn.one_hot(prev_actions, n_actions))
    if agent_id:
        n_agents = obs.shape[-2]
        parts.append(jnp.broadcast_to(jnp.eye(n_agents), (*obs.shape[:-1], n_agents)))
    return jnp.concatenate(parts, axis=-1)


def previous_actions(actions: Array, reset: Array) -> Array:
    """Last actions, rebuilt from the stored ones.

    Args:
      actions: i32[T, B, N].
      reset: bool[T+1, B], True where an episode starts.
    Returns:
      i32[T+1, B, N], -1 at the first entry and wherever `reset`.
    """
    shifted = jnp.concatenate([jnp.full_like(actions[:1], -1), actions])
    return jnp.where(reset[..., None], -1, shifted)


def unroll_pair(
    agent: Agent, params: Params, target_params: Params, trajectory: Trajectory
) -> tuple[Array, Array]:
    """Online and target utilities over a batch of sequences, both from their own initial carry.

    Args:
      params, target_params: the agent's parameters; no gradient flows into the latter's result.
      trajectory: `[T+1, B, ...]`.
    Returns:
      (q f32[T+1, B, N, A], q_target f32[T+1, B, N, A]).
    """
    prev_actions = previous_actions(trajectory.actions, trajectory.reset)
    carry = agent.initial_carry(trajectory.reset.shape[1])

    def utilities(parameters: Params) -> Array:
        return agent.unroll(parameters, carry, trajectory.obs, prev_actions, trajectory.reset)[1]

    return utilities(params), jax.lax.stop_gradient(utilities(target_params))
