"""The agent contract and what agents share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax.nn import functional
from qmix_jax.types import Array, Start, Trajectory

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
      stacked: unroll online and target parameters together (fewer, wider operations).
    """

    init: Callable[[Array], Params]
    initial_carry: Callable[[int], Carry]
    unroll: Callable[[Params, Carry, Array, Array, Array], tuple[Carry, Array, Array]]
    stacked: bool = False


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
        parts.append(jax.nn.one_hot(prev_actions, n_actions, dtype=obs.dtype))
    if agent_id:
        n_agents = obs.shape[-2]
        ids = jnp.eye(n_agents, dtype=obs.dtype)
        parts.append(jnp.broadcast_to(ids, (*obs.shape[:-1], n_agents)))
    return jnp.concatenate(parts, axis=-1)


def previous_actions(actions: Array, reset: Array, first: Array) -> Array:
    """Last actions, rebuilt from the stored ones.

    Args:
      actions: i32[T, B, N].
      reset: bool[T+1, B], True where an episode starts.
      first: i32[B, N], last actions before the first entry.
    Returns:
      i32[T+1, B, N], -1 wherever `reset`.
    """
    return jnp.where(reset[..., None], -1, jnp.concatenate([first[None], actions]))


class Unrolled(NamedTuple):
    """A network's outputs over sequences: utilities f32[T+1, B, N, A], hidden f32[T+1, B, N, H]."""

    q: Array
    hidden: Array


def unroll(agent: Agent, params: Params, trajectory: Trajectory) -> Unrolled:
    """One network over a batch of sequences, from the sequences' own start.

    Args:
      params: the agent's parameters.
      trajectory: `[T+1, B, ...]`.
    """
    return _over(agent, trajectory)(params)


def unroll_pair(
    agent: Agent, params: Params, target_params: Params, trajectory: Trajectory
) -> tuple[Unrolled, Unrolled]:
    """Online and target network over a batch of sequences, both from the sequences' own start.

    Args:
      params, target_params: the agent's parameters; no gradient flows into the latter's result.
      trajectory: `[T+1, B, ...]`.
    Returns:
      (online, target).
    """
    outputs = _over(agent, trajectory)
    if not agent.stacked:
        return outputs(params), jax.lax.stop_gradient(outputs(target_params))
    both = jax.tree.map(
        lambda p, t: jnp.stack([p, jax.lax.stop_gradient(t)]), params, target_params
    )
    q, hidden = jax.vmap(outputs)(both)
    return Unrolled(q[0], hidden[0]), jax.lax.stop_gradient(Unrolled(q[1], hidden[1]))


def _over(agent: Agent, trajectory: Trajectory) -> Callable[[Params], Unrolled]:
    start = trajectory.start
    if start is None:
        none = jnp.full(trajectory.actions.shape[1:], -1, jnp.int32)
        start = Start(carry=agent.initial_carry(len(none)), prev_actions=none)
    prev_actions = previous_actions(trajectory.actions, trajectory.reset, start.prev_actions)

    def outputs(params: Params) -> Unrolled:
        inputs = (trajectory.obs, prev_actions, trajectory.reset)
        return Unrolled(*agent.unroll(params, start.carry, *inputs)[1:])

    return outputs


def in_bfloat16(agent: Agent) -> Agent:
    """The same agent computing in bfloat16: parameters, and all it takes and gives, stay f32."""

    def unroll(
        params: Params, carry: Carry, obs: Array, prev_actions: Array, reset: Array
    ) -> tuple[Carry, Array, Array]:
        params, carry, obs = functional.cast((params, carry, obs), jnp.bfloat16)
        result = agent.unroll(params, carry, obs, prev_actions, reset)
        return functional.cast(result, jnp.float32)

    return agent._replace(unroll=unroll)
