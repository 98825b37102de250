"""The factorisation contract and what temporal-difference factorisations share."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from qmix_jax import config
from qmix_jax.agents import base as agents
from qmix_jax.core import exploration, masked, qvalues, returns
from qmix_jax.types import Array, Batch, HParams, Metrics, record

Params = Any
Carry = Any


@record
class Extras:
    """What a loss returns besides its value.

    Attributes:
      metrics: name -> (sum f32[], count f32[]).
      priority: f32[B], the sampled sequences' new priorities.
    """

    metrics: Metrics
    priority: Array


class Factorisation(NamedTuple):
    """A full algorithm of the family: networks, acting and loss.

    Attributes:
      init: `(key) -> params`, a dict whose parts are named after the networks.
      initial_carry: `(batch_size) -> carry`.
      act: `(params, carry, obs f32[B, N, *O], prev_actions i32[B, N], reset bool[B],
        avail_actions bool[B, N, A], epsilon f32[], key) -> (carry, actions i32[B, N])`. It has no
        `state` argument: execution is decentralised.
      loss: `(params, target_params, Batch, HParams, key) -> (loss f32[], Extras)`.
      utilities: `(params, obs f32[N, *O]) -> q f32[N, A]` at the start of an episode.
      joint_values: `(params, obs f32[N, *O], state f32[S], avail_actions bool[N, A],
        actions i32[J, N]) -> q_tot f32[J]` at the start of an episode, or None where there is no
        joint value.
      uses_target: False makes `target_params` an empty tuple.
    """

    init: Callable[[Array], Params]
    initial_carry: Callable[[int], Carry]
    act: Callable[..., tuple[Carry, Array]]
    loss: Callable[[Params, Params, Batch, HParams, Array], tuple[Array, Extras]]
    utilities: Callable[[Params, Array], Array]
    joint_values: Callable[[Params, Array, Array, Array, Array], Array] | None
    uses_target: bool


class TDConfig(config.Model):
    """Options that temporal-difference factorisations share."""

    double_q: bool = True
    """Select the next action with the online network (van Hasselt et al. 2016)."""
    loss: Literal["mse", "huber"] = "mse"
    """Elementwise error: squared (no factor 1/2), or Huber with `hparams.huber_delta`."""


class NextValues(NamedTuple):
    """Selection for a one-step target: online q f32[T, B, N, A] at t; at t+1 the target network's
    utilities of the selected (`q_next`) and of its own best (`q_next_greedy`) actions f32[T, B, N],
    and the selected actions i32[T, B, N].
    """

    q: Array
    q_next: Array
    q_next_greedy: Array
    next_actions: Array


def next_values(
    cfg: TDConfig, agent: agents.Agent, params: Params, target_params: Params, batch: Batch
) -> NextValues:
    """Unrolls both networks over the sequences and selects the next actions.

    Args:
      params, target_params: the agent's own parameters.
      batch: sequences `[T+1, B, ...]`.
    """
    trajectory = batch.trajectory
    q, q_target = agents.unroll_pair(agent, params, target_params, trajectory)
    avail_next = trajectory.avail_actions[1:]
    q_target = q_target[1:]
    next_actions = qvalues.double_q_action(q[1:], q_target, avail_next, cfg.double_q)
    return NextValues(
        q=q[:-1],
        q_next=qvalues.take(q_target, next_actions),
        q_next_greedy=qvalues.take(q_target, qvalues.greedy(q_target, avail_next)),
        next_actions=next_actions,
    )


def target(batch: Batch, value_next: Array, hparams: HParams) -> Array:
    """Peng's Q(lambda) target of the team reward; one-step at `td_lambda` 0.

    Args:
      batch: sequences.
      value_next: f32[T, B], or f32[T, B, N] where every agent has its own.
      hparams: reward scale, discount and lambda.
    Returns:
      f32, shape of `value_next`, without gradient.
    """
    trajectory = batch.trajectory
    per_step = (
        hparams.reward_scale * trajectory.reward,
        trajectory.terminated,
        returns.chained(trajectory.reset, trajectory.valid),
    )
    axes = range(2, value_next.ndim)
    reward, terminated, chain = (
        jnp.broadcast_to(jnp.expand_dims(x, axes), value_next.shape) for x in per_step
    )
    return returns.peng_lambda(
        reward, terminated, value_next, hparams.gamma, hparams.td_lambda, chain
    )


def td_loss(
    cfg: TDConfig, value: Array, target: Array, batch: Batch, hparams: HParams
) -> tuple[Array, Extras]:
    """Weighted masked mean of the elementwise error.

        loss = sum(valid * w_b * e(value - target)) / max(sum(valid), 1)

    Args:
      value: f32[T, B] or f32[T, B, N], predictions with gradient.
      target: same shape, without gradient.
      batch: gives `valid` bool[T, B] and the weights f32[B].
    Returns:
      (loss f32[], Extras).
    """
    valid = batch.trajectory.valid
    weight = batch.weight[None, :]
    if value.ndim == 3:
        valid = jnp.broadcast_to(valid[..., None], value.shape)
        weight = weight[..., None]
    # Masked before the square: a non-finite error of an invalid step must not reach the gradient.
    error = jnp.where(valid, value - target, 0.0)
    cost = masked.huber(error, hparams.huber_delta) if cfg.loss == "huber" else jnp.square(error)
    loss = masked.mean(cost * weight, valid)
    size = jnp.abs(error)
    metrics = {
        "loss": (loss, jnp.ones(())),
        "td_error_abs": masked.total(size, valid),
        "q_taken": masked.total(value, valid),
        "target": masked.total(target, valid),
    }
    priority = jnp.max(size, axis=tuple(axis for axis in range(value.ndim) if axis != 1))
    return loss, Extras(metrics=metrics, priority=priority)


def make_act(agent: agents.Agent, select: Callable[[Params], Params]) -> Callable:
    """Epsilon-greedy acting on utilities: `Factorisation.act` for one agent network.

    Args:
      agent: acting is its `unroll` with T = 1, so acting and learning cannot drift apart.
      select: picks the agent's parameters out of the factorisation's.
    """

    def act(
        params: Params,
        carry: Carry,
        obs: Array,
        prev_actions: Array,
        reset: Array,
        avail_actions: Array,
        epsilon: Array,
        key: Array,
    ) -> tuple[Carry, Array]:
        carry, q, _ = agent.unroll(
            select(params), carry, obs[None], prev_actions[None], reset[None]
        )
        return carry, exploration.epsilon_greedy(key, q[0], avail_actions, epsilon)

    return act


def make_utilities(agent: agents.Agent, select: Callable[[Params], Params]) -> Callable:
    """Utilities at the start of an episode: `Factorisation.utilities` for one agent network."""

    def utilities(params: Params, obs: Array) -> Array:
        prev_actions = jnp.full((1, 1, obs.shape[0]), -1, jnp.int32)
        reset = jnp.ones((1, 1), bool)
        carry = agent.initial_carry(1)
        return agent.unroll(select(params), carry, obs[None, None], prev_actions, reset)[1][0, 0]

    return utilities
