"""The factorisation contract and what temporal-difference factorisations share."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax import config
from qmix_jax.agents import base as agents
from qmix_jax.core import exploration, masked, qvalues, returns
from qmix_jax.mixers import base as mixers
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
      unrestricted_values: as `joint_values`, of a second joint value that need not agree with the
        utilities on the best actions (QTRAN's Q_jt, WQMIX's Q*); None where there is no such value.
        `joint_values` is always the one whose greedy joint action `act` takes.
    """

    init: Callable[[Array], Params]
    initial_carry: Callable[[int], Carry]
    act: Callable[..., tuple[Carry, Array]]
    loss: Callable[[Params, Params, Batch, HParams, Array], tuple[Array, Extras]]
    utilities: Callable[[Params, Array], Array]
    joint_values: Callable[[Params, Array, Array, Array, Array], Array] | None
    uses_target: bool
    unrestricted_values: Callable[[Params, Array, Array, Array, Array], Array] | None = None


class TargetConfig(config.Model):
    """Options of targets and errors, which all factorisations share."""

    target: Literal["peng", "watkins", "harutyunyan", "n_step"] = "peng"
    """Kind of Q(lambda) with `hparams.td_lambda` (0 makes each one-step), or `n_step`."""
    n_step: config.PositiveInt = 3
    """Rewards that the target `n_step` sums."""
    loss: Literal["mse", "huber"] = "mse"
    """Cost of a TD error: its square (no factor 1/2), or Huber with `hparams.huber_delta`."""


class TDConfig(TargetConfig):
    """Options that temporal-difference factorisations share."""

    double_q: bool = True
    """Select the next action with the online network (van Hasselt et al. 2016)."""


class NextValues(NamedTuple):
    """Selection for a target: the online network's q f32[T, B, N, A] and hidden f32[T, B, N, H] at
    t, the target network's at t+1, and the selected actions at t+1 i32[T, B, N].
    """

    q: Array
    hidden: Array
    q_next: Array
    hidden_next: Array
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
    online, target = agents.unroll_pair(agent, params, target_params, trajectory)
    avail_next = trajectory.avail_actions[1:]
    return NextValues(
        q=online.q[:-1],
        hidden=online.hidden[:-1],
        q_next=target.q[1:],
        hidden_next=target.hidden[1:],
        next_actions=qvalues.double_q_action(online.q[1:], target.q[1:], avail_next, cfg.double_q),
    )


def init_agent_and_mixer(agent: agents.Agent, mixer: mixers.Mixer) -> Callable[[Array], Params]:
    """`Factorisation.init` of the parameters `agent` and `mixer`."""

    def init(key: Array) -> Params:
        key_agent, key_mixer = jax.random.split(key)
        return {"agent": agent.init(key_agent), "mixer": mixer.init(key_mixer)}

    return init


def target(
    cfg: TargetConfig,
    batch: Batch,
    hparams: HParams,
    next_actions: Array,
    value: Callable[[Array], Array],
    independent: bool = False,
) -> Array:
    """Target of the team reward, of the kind `cfg.target`; one-step at `td_lambda` 0 or n = 1.

    It looks no further than the end of a sequence, the start of another episode or a step that is
    not valid (`returns.chained`).

    Args:
      batch: sequences.
      hparams: reward scale, discount and lambda.
      next_actions: i32[T, B, N], the selected (greedy) actions at t+1.
      value: `(actions i32[T, B, N]) -> f32[T, B]`, the target network's value of actions at t+1;
        f32[T, B, K] where there are several. Called twice for `harutyunyan` only.
      independent: the values are one per agent, and an agent's `watkins` trace is cut by its own
        exploration instead of anyone's.
    Returns:
      f32, shape of a value, without gradient.
    """
    trajectory, value_next = batch.trajectory, value(next_actions)
    axes = range(2, value_next.ndim)

    def per_value(x: Array) -> Array:
        return jnp.broadcast_to(jnp.expand_dims(x, axes), value_next.shape)

    reward = per_value(hparams.reward_scale * trajectory.reward)
    terminated = per_value(trajectory.terminated)
    chain = per_value(returns.chained(trajectory.reset, trajectory.valid))
    if cfg.target == "n_step":
        return returns.n_step(reward, terminated, value_next, hparams.gamma, cfg.n_step, chain)
    # Nothing was executed after the last step, and the chain ends there.
    executed = jnp.concatenate([trajectory.actions[1:], next_actions[-1:]])
    baseline = value_next
    if cfg.target == "watkins":
        greedy = executed == next_actions
        chain &= greedy if independent else per_value(jnp.all(greedy, axis=-1))
    elif cfg.target == "harutyunyan":
        baseline = value(executed)
    return returns.q_lambda(
        reward, terminated, value_next, baseline, hparams.gamma, hparams.td_lambda, chain
    )


def mean_cost(error: Array, batch: Batch, cost: Callable[[Array], Array] = jnp.square) -> Array:
    """Weighted masked mean of an elementwise cost of errors.

        sum(valid * w_b * cost(error)) / max(sum(valid), 1)

    Args:
      error: f32[T, B], or f32[T, B, K] with several per step; may be anything where not valid.
      batch: gives `valid` bool[T, B] and the weights f32[B].
    Returns:
      f32[].
    """
    valid = _valid_like(error, batch)
    # Masked before the cost: a non-finite error of an invalid step must not reach the gradient.
    costs = cost(jnp.where(valid, error, 0.0))
    weight = jnp.expand_dims(batch.weight[None, :], range(2, error.ndim))
    return masked.mean(costs * weight, valid)


def td_loss(
    cfg: TargetConfig,
    value: Array,
    target: Array,
    batch: Batch,
    hparams: HParams,
    scale: Array | float = 1.0,
) -> tuple[Array, Extras]:
    """`mean_cost` of the temporal-difference error.

        loss = sum(valid * w_b * scale * e(value - target)) / max(sum(valid), 1)

    Args:
      value: f32[T, B] or f32[T, B, K], predictions with gradient.
      target: same shape, without gradient.
      batch: gives `valid` bool[T, B] and the weights f32[B].
      scale: factors without gradient, same shape.
    Returns:
      (loss f32[], Extras).
    """

    def cost(error: Array) -> Array:
        if cfg.loss == "huber":
            return scale * masked.huber(error, hparams.huber_delta)
        return scale * jnp.square(error)

    loss = mean_cost(value - target, batch, cost)
    valid = _valid_like(value, batch)
    size = jnp.abs(jnp.where(valid, value - target, 0.0))
    metrics = {
        "loss": (loss, jnp.ones(())),
        "td_error_abs": masked.total(size, valid),
        "q_taken": masked.total(value, valid),
        "target": masked.total(target, valid),
    }
    priority = jnp.max(size, axis=tuple(axis for axis in range(value.ndim) if axis != 1))
    return loss, Extras(metrics=metrics, priority=priority)


def _valid_like(values: Array, batch: Batch) -> Array:
    valid = jnp.expand_dims(batch.trajectory.valid, range(2, values.ndim))
    return jnp.broadcast_to(valid, values.shape)


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
        return first_step(agent, select(params), obs).q

    return utilities


def first_step(agent: agents.Agent, params: Params, obs: Array) -> agents.Unrolled:
    """An agent network at the start of an episode: obs f32[N, *O] -> q f32[N, A] and hidden."""
    prev_actions = jnp.full((1, 1, obs.shape[0]), -1, jnp.int32)
    reset = jnp.ones((1, 1), bool)
    carry = agent.initial_carry(1)
    _, q, hidden = agent.unroll(params, carry, obs[None, None], prev_actions, reset)
    return agents.Unrolled(q[0, 0], hidden[0, 0])


def make_joint_values(agent: agents.Agent, mixer: mixers.Mixer) -> Callable:
    """Mixed values at the start of an episode: `Factorisation.joint_values` for parameters `agent`
    and `mixer`.
    """

    def joint_values(
        params: Params, obs: Array, state: Array, avail_actions: Array, actions: Array
    ) -> Array:
        q = first_step(agent, params["agent"], obs).q
        # One row per joint action: a mixer's inputs have the same leading axes.
        q, avail_actions, state = (
            jnp.broadcast_to(x, (len(actions), *x.shape)) for x in (q, avail_actions, state)
        )
        inputs = mixers.inputs(q, avail_actions, actions, state)
        return mixer.apply(params["mixer"], inputs).q_tot

    return joint_values
