"""The algorithm contract, and shared parts of temporal-difference algorithms."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import config, learner
from qmix_jax.agents import base as agents
from qmix_jax.core import exploration, masked, qvalues, returns, schedules
from qmix_jax.envs import base as envs
from qmix_jax.mixers import base as mixers
from qmix_jax.types import (
    Array,
    Batch,
    Box,
    Clock,
    Discrete,
    HParams,
    Observed,
    Trajectory,
)

Params = Any
Carry = Any
Exploration = Mapping[str, Any]
"""name -> f32[]: epsilon, temperature, sigma, ..."""


class Needs(NamedTuple):
    """Requirements of an algorithm; anything else is refused with the reason.

    Attributes:
      actions: kinds of actions.
      reward: `team`: learns from `Env.team_reward`; `own`: from each agent's own reward.
      zero_sum: the rewards of two agents must add up to zero.
      n_agents: the number of agents, None for any.
      tabular: the environment must have a finite number of states, `EnvSpec.n_states`.
      mean_action: rollouts store the mean action of each agent's neighbours, and `Observed` holds
        the previous one.
      replay: kinds of replay.
      collectors: kinds of collectors.
      feed_forward: the agent must have no memory.
    """

    actions: tuple[type[Discrete] | type[Box], ...] = (Discrete,)
    reward: Literal["team", "own"] = "team"
    zero_sum: bool = False
    n_agents: int | None = None
    tabular: bool = False
    mean_action: bool = False
    replay: tuple[str, ...] = ("uniform", "prioritised", "transitions")
    collectors: tuple[str, ...] = ("episode", "segment", "window")
    feed_forward: bool = False


class Components(NamedTuple):
    """Configured components of an algorithm.

    Attributes:
      agent: `(width) -> Agent`, an agent network with a head of this width.
      mixer: None if the configuration has none.
      optimiser: the direction of a gradient step.
    """

    agent: Callable[[int], agents.Agent]
    mixer: mixers.Mixer | None
    optimiser: learner.Optimiser


class Algorithm(NamedTuple):
    """A learning algorithm as pure functions.

    Attributes:
      needs: requirements on environment, replay and collector.
      init: `(key) -> params`, a dict by network name.
      initial_carry: `(batch_size) -> {"act": carry, "learn": carry}`, of the networks that act and
        of recurrent networks that only learn.
      act: `(params, carry, Observed[B], exploration, key) -> (carry, actions [B, N, ...],
        behaviour)` on the `act` carry. It has no `state` argument: execution is decentralised.
        `behaviour`, name -> [B, ...], is stored for learning; `{}` for Q-learning.
      exploration: `(HParams, Clock) -> name -> f32[]`, current parameters of exploration.
      greedy: the same tree without exploration; a mixed policy stays mixed.
      learner: updates the parameters.
      head: how `act` turns the agent's head into actions: `argmax` of available entries, `tanh`
        into the box, `sample` from the softmax of available entries; None for anything else, which
        has no NumPy export. The agent's parameters are `params["agent"]`.
      accompany: `(params, carry, Observed[B], state f32[B, S]) -> carry` on the `learn` carry:
        advances recurrent networks that learn but do not act; called in rollouts only.
      inspect: `(params, Trajectory) -> name -> f32[T, B, ...]`, for analysis: `utilities` f32[T, B,
        N, A], `q_tot` f32[T, B] of the joint actions taken, `q_joint` f32[T, B] of a joint value
        that is independent of the utilities (QTRAN's Q_jt, WQMIX's Q*), `mixer/<name>` from a
        mixer's `info`. None if there is nothing to inspect.
    """

    needs: Needs
    init: Callable[[Array], Params]
    initial_carry: Callable[[int], Carry]
    act: Callable[..., tuple[Carry, Array, dict[str, Any]]]
    exploration: Callable[[HParams, Clock], Exploration]
    greedy: Exploration
    learner: learner.Learner
    head: Literal["argmax", "tanh", "sample"] | None
    accompany: Callable[[Params, Carry, Observed, Array], Carry] | None = None
    inspect: Callable[[Params, Trajectory], dict[str, Array]] | None = None


def unmet(
    needs: Needs, env: envs.Env | envs.HostEnv, replay: str, collector: str, has_memory: bool
) -> str | None:
    """Returns the first unmet need of an algorithm, or None if it can be trained.

    Args:
      replay: `replay.kind`.
      collector: `trainer.collector`.
      has_memory: whether the agent has a carry.
    """
    spec = env.spec
    kinds = " or ".join(kind.__name__.lower() for kind in needs.actions)
    checks = {
        f"it needs {kinds} actions, and those of {spec.name} are "
        f"{type(spec.actions).__name__.lower()}": isinstance(spec.actions, needs.actions),
        f"it learns from one team reward, and the agents of {spec.name} compete": (
            needs.reward == "own" or env.team_reward is not None
        ),
        f"it needs two agents whose rewards add up to zero; {spec.name} is not `zero_sum`": (
            spec.zero_sum or not needs.zero_sum
        ),
        f"it needs {needs.n_agents} agents, and {spec.name} has {spec.n_agents}": (
            needs.n_agents in (None, spec.n_agents)
        ),
        f"it needs a finite number of states; {spec.name} has no `n_states`": (
            spec.n_states is not None or not needs.tabular
        ),
        f"it learns from replay.kind={' or '.join(needs.replay)}, got {replay}": (
            replay in needs.replay
        ),
        f"it learns with trainer.collector={' or '.join(needs.collectors)}, got {collector}": (
            collector in needs.collectors
        ),
        "it needs an agent without memory; set agent=mlp": not (needs.feed_forward and has_memory),
        "replay.kind=transitions needs an agent without memory; set agent=mlp, or "
        "replay.kind=uniform": not (replay == "transitions" and has_memory),
    }
    return next((reason for reason, met in checks.items() if not met), None)


class TargetConfig(config.Model):
    """Options of temporal-difference targets and losses."""

    target: Literal["peng", "watkins", "harutyunyan", "n_step"] = "peng"
    """Kind of Q(lambda) with `hparams.td_lambda` (0 makes each one-step), or `n_step`."""
    n_step: config.PositiveInt = 3
    """Number of rewards in the target `n_step`."""
    loss: Literal["mse", "huber"] = "mse"
    """Loss of a TD error: its square (no factor 1/2), or Huber with `hparams.huber_delta`."""


class TDConfig(TargetConfig):
    """Options of algorithms with double-Q targets."""

    double_q: bool = True
    """Select the next action with the online network (van Hasselt et al. 2016)."""


class NextValues(NamedTuple):
    """Utilities of online and target network, and the selected next actions.

    Attributes:
      q, hidden: of the online network at t, f32[T, B, N, A] and f32[T, B, N, H].
      q_next, hidden_next: of the target network at t+1.
      next_actions: i32[T, B, N], at t+1.
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
      params, target_params: parameters of the agent network.
      batch: sequences `[T+1, B, ...]`.
    """
    trajectory = batch.trajectory
    online, target = agents.unroll_pair(agent, params, target_params, trajectory)
    avail_next = trajectory.avail_actions[1:]
    return NextValues(
        q=online.head[:-1],
        hidden=online.hidden[:-1],
        q_next=target.head[1:],
        hidden_next=target.hidden[1:],
        next_actions=qvalues.double_q_action(
            online.head[1:], target.head[1:], avail_next, cfg.double_q
        ),
    )


def init_agent_and_mixer(agent: agents.Agent, mixer: mixers.Mixer) -> Callable[[Array], Params]:
    """`Algorithm.init` of the parameters `agent` and `mixer`."""

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
    """Returns the target of kind `cfg.target` for the team reward; one-step at `td_lambda` 0 or
    n = 1.

    It looks no further than the end of a sequence, the start of another episode or an invalid step
    (`returns.chained`).

    Args:
      batch: sequences.
      hparams: reward scale, discount and lambda.
      next_actions: i32[T, B, N], the selected (greedy) actions at t+1.
      value: `(actions i32[T, B, N]) -> f32[T, B]`, the target network's value of actions at t+1, or
        f32[T, B, K] for several values. Called twice for `harutyunyan` only.
      independent: there is one value per agent, and its `watkins` trace is cut by the exploration
        of that agent only.
    Returns:
      f32, shape of a value. No gradient flows through it.
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
    # The chain ends at the last step, so the action after it does not matter.
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
    """Weighted mean of an elementwise cost over valid steps.

        sum(valid * w_b * cost(error)) / max(sum(valid), 1)

    Args:
      error: f32[T, B], or f32[T, B, K] with several per step; may be anything where not valid.
      batch: provides `valid` bool[T, B] and the weights f32[B].
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
) -> tuple[Array, learner.LossAux]:
    """`mean_cost` of the temporal-difference error.

        loss = sum(valid * w_b * scale * e(value - target)) / max(sum(valid), 1)

    Args:
      value: f32[T, B] or f32[T, B, K], predictions with gradient.
      target: same shape, without gradient.
      batch: provides `valid` bool[T, B] and the weights f32[B].
      scale: factors without gradient, same shape.
    Returns:
      (loss f32[], LossAux).
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
    return loss, learner.LossAux(metrics=metrics, priority=priority)


def _valid_like(values: Array, batch: Batch) -> Array:
    valid = jnp.expand_dims(batch.trajectory.valid, range(2, values.ndim))
    return jnp.broadcast_to(valid, values.shape)


def q_learning(
    agent: agents.Agent,
    optimiser: learner.Optimiser,
    *,
    parts: tuple[str, ...],
    targets: tuple[str, ...],
    init: Callable[[Array], Params],
    loss: Callable[[Params, Params, Batch, HParams], tuple[Array, learner.LossAux]],
    inspect: Callable[[Params, Trajectory], dict[str, Array]],
    needs: Needs = Needs(),  # noqa: B008
) -> Algorithm:
    """Returns an algorithm that acts epsilon-greedily on `params["agent"]` and descends one loss.

    Args:
      parts: names of the networks, all of which are trained.
      targets: names of the networks with a target copy.
      init, inspect, needs: as in `Algorithm`.
      loss: `(params, target_params, Batch, HParams) -> (loss f32[], LossAux)`.
    """

    def phase_loss(
        params: Params,
        target_params: Params,
        batch: Batch,
        hparams: HParams,
        clock: Clock,
        k: Array,
        key: Array,
    ) -> tuple[Array, learner.LossAux]:
        del clock, k, key
        return loss(params, target_params, batch, hparams)

    return Algorithm(
        needs=needs,
        init=init,
        initial_carry=lambda batch_size: {"act": agent.initial_carry(batch_size), "learn": ()},
        act=epsilon_greedy_act(agent),
        exploration=epsilon,
        greedy={"epsilon": np.zeros((), np.float32)},
        learner=learner.by_gradient([learner.Phase(parts, phase_loss)], optimiser, targets),
        head="argmax",
        inspect=inspect,
    )


def epsilon(hparams: HParams, clock: Clock) -> Exploration:
    """`Algorithm.exploration` of Q-learners: epsilon over env steps."""
    return {"epsilon": schedules.linear(hparams.epsilon, clock.env_steps)}


def epsilon_greedy_act(agent: agents.Agent) -> Callable:
    """`Algorithm.act` on the utilities of `params["agent"]`."""

    def act(
        params: Params, carry: Carry, observed: Observed, explore: Exploration, key: Array
    ) -> tuple[Carry, Array, dict[str, Any]]:
        carry, q, _ = agents.step(agent, params["agent"], carry, observed)
        actions = exploration.epsilon_greedy(key, q, observed.avail_actions, explore["epsilon"])
        return carry, actions, {}

    return act


def inspect_mixed(agent: agents.Agent, mixer: mixers.Mixer) -> Callable:
    """`Algorithm.inspect` for parameters `agent` and `mixer`."""

    def inspect(params: Params, trajectory: Trajectory) -> dict[str, Array]:
        q = agents.unroll(agent, params["agent"], trajectory).head[:-1]
        avail, state = trajectory.avail_actions[:-1], trajectory.state[:-1]
        mixed = mixer.apply(params["mixer"], mixers.inputs(q, avail, trajectory.actions, state))
        info = {f"mixer/{name}": values for name, values in mixed.info.items()}
        return {"utilities": q, "q_tot": mixed.q_tot, **info}

    return inspect
