"""Environments and any acting function -> `Trajectory`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax.core import masked
from qmix_jax.envs import base as envs
from qmix_jax.types import Array, Metrics, TimeStep, Trajectory, record

Act = Callable[..., tuple[Any, Array]]
"""`(carry, obs, prev_actions, reset, avail_actions, key) -> (carry, actions)`."""


@record
class ActorState:
    """Where a batch of environments stands between two steps.

    Attributes:
      env_state: tree with leading axis B.
      timestep: `TimeStep[B]`, what the environments show now.
      reset: bool[B], `timestep` is the first of an episode.
      carry: the agent's recurrent state.
      prev_actions: i32[B, N], -1 = none.
      ended: bool[B], the episode is over (`episode` collector and evaluation).
    """

    env_state: Any
    timestep: TimeStep
    reset: Array
    carry: Any
    prev_actions: Array
    ended: Array


@record
class _Step:
    """One collected step: what the environments showed, what was done, and what came of it.

    `happened` is False after the end of an `episode` sequence; `metrics` are the following time
    step's.
    """

    timestep: TimeStep
    reset: Array
    actions: Array
    reward: Array
    terminated: Array
    truncated: Array
    metrics: dict[str, Array]
    happened: Array
    valid: Array


class Collector(NamedTuple):
    """How environments are run to fill one `Trajectory`.

    Attributes:
      init: `(key) -> actor`, what stays alive between rollouts; `()` where every rollout starts
        fresh.
      collect: `(key, actor, act) -> (actor, Trajectory[T, B], metrics)`.
    """

    init: Callable[[Array], Any]
    collect: Callable[[Array, Any, Act], tuple[Any, Trajectory, Metrics]]


def start(env: envs.Env, key: Array, n_envs: int, carry: Any) -> ActorState:
    """Fresh environments.

    Args:
      key: typed PRNG key.
      n_envs: B.
      carry: the agent's initial carry for B environments.
    """
    env_state, timestep = jax.vmap(env.reset)(jax.random.split(key, n_envs))
    return ActorState(
        env_state=env_state,
        timestep=timestep,
        reset=jnp.ones((n_envs,), bool),
        carry=carry,
        prev_actions=jnp.full((n_envs, env.spec.n_agents), -1, jnp.int32),
        ended=jnp.zeros((n_envs,), bool),
    )


def act_and_step(
    env: envs.Env, act: Act, actor: ActorState, key_act: Array, key_env: Array
) -> tuple[ActorState, Array, TimeStep]:
    """One step of every environment, without any reset.

    Returns:
      (actor with the new carry and environment states, actions i32[B, N], the following time
      steps).
    """
    timestep = actor.timestep
    carry, actions = act(
        actor.carry, timestep.obs, actor.prev_actions, actor.reset, timestep.avail_actions, key_act
    )
    keys = jax.random.split(key_env, actions.shape[0])
    env_state, following = jax.vmap(env.step)(keys, actor.env_state, actions)
    stepped = replace(
        actor,
        env_state=env_state,
        timestep=following,
        reset=jnp.zeros_like(actor.reset),
        carry=carry,
        prev_actions=actions,
    )
    return stepped, actions, following


def make_segment(
    env: envs.Env, initial_carry: Callable[[int], Any], n_envs: int, window: int
) -> Collector:
    """Fresh environments, auto-reset inside the window: no padding, nothing stale.

    A truncated step's successor is overwritten by the reset, so such a step is not `valid`.

    Args:
      initial_carry: `(batch_size) -> carry`, the agent's.
      n_envs: B.  window: T, at least the longest episode.
    """

    def step(actor: ActorState, keys: Array, act: Act) -> tuple[ActorState, _Step]:
        stepped, actions, following = act_and_step(env, act, actor, keys[0], keys[1])
        ended = following.terminated | following.truncated
        fresh_state, fresh = jax.vmap(env.reset)(jax.random.split(keys[2], n_envs))
        after = replace(
            stepped,
            env_state=envs.select(ended, fresh_state, stepped.env_state),
            timestep=envs.select(ended, fresh, following),
            reset=ended,
            prev_actions=jnp.where(ended[:, None], -1, actions),
        )
        happened = jnp.ones_like(ended)
        return after, _record(actor, actions, following, happened, ~following.truncated)

    return _from_fresh_starts(env, initial_carry(n_envs), n_envs, window, step)


def make_episode(
    env: envs.Env, initial_carry: Callable[[int], Any], n_envs: int, window: int
) -> Collector:
    """One episode per sequence; what follows its end is not `valid` (PyMARL's semantics).

    An ended environment stands still: the entry after its last valid step, and every later one, is
    the true final observation.

    Args:
      initial_carry: `(batch_size) -> carry`, the agent's.
      n_envs: B.  window: T, at least the longest episode.
    """

    def step(actor: ActorState, keys: Array, act: Act) -> tuple[ActorState, _Step]:
        stepped, actions, following = act_and_step(env, act, actor, keys[0], keys[1])
        after = replace(
            stepped,
            env_state=envs.select(actor.ended, actor.env_state, stepped.env_state),
            timestep=envs.select(actor.ended, actor.timestep, following),
            ended=actor.ended | following.terminated | following.truncated,
        )
        return after, _record(actor, actions, following, ~actor.ended, ~actor.ended)

    return _from_fresh_starts(env, initial_carry(n_envs), n_envs, window, step)


def _from_fresh_starts(
    env: envs.Env, carry: Any, n_envs: int, window: int, step: Callable
) -> Collector:
    def init(key: Array) -> tuple[()]:
        del key
        return ()

    def collect(key: Array, actor: tuple[()], act: Act) -> tuple[tuple[()], Trajectory, Metrics]:
        key_start, key_steps = jax.random.split(key)
        first = start(env, key_start, n_envs, carry)
        keys = jax.random.split(key_steps, (window, 3))
        last, steps = jax.lax.scan(lambda current, k: step(current, k, act), first, keys)
        return actor, _trajectory(steps, last), _episode_metrics(steps)

    return Collector(init, collect)


def _record(
    actor: ActorState, actions: Array, following: TimeStep, happened: Array, valid: Array
) -> _Step:
    return _Step(
        timestep=actor.timestep,
        reset=actor.reset,
        actions=actions,
        reward=following.reward,
        terminated=following.terminated,
        truncated=following.truncated,
        metrics=following.metrics,
        happened=happened,
        valid=valid,
    )


def _episode_metrics(steps: _Step) -> Metrics:
    """Return, length and the environment's own metrics of the episodes that ended in the rollout
    (one that the window cuts off is not counted, which favours short episodes a little).
    """
    index = jnp.arange(steps.reward.shape[0])[:, None]
    first = jax.lax.cummax(jnp.where(steps.reset, index, 0), axis=0)
    collected = jnp.cumsum(steps.reward, axis=0)
    before_first = jnp.take_along_axis(collected - steps.reward, first, axis=0)
    finished = steps.happened & (steps.terminated | steps.truncated)
    values = {
        "return": collected - before_first,
        "length": (index - first + 1).astype(jnp.float32),
        **steps.metrics,
    }
    metrics = {f"rollout/{name}": masked.total(value, finished) for name, value in values.items()}
    metrics["rollout/valid_fraction"] = masked.total(
        steps.valid.astype(jnp.float32), jnp.ones_like(steps.valid)
    )
    return metrics


def _trajectory(steps: _Step, last: ActorState) -> Trajectory:
    def with_last(values: Array, final: Array) -> Array:
        return jnp.concatenate([values, final[None]])

    return Trajectory(
        obs=with_last(steps.timestep.obs, last.timestep.obs),
        state=with_last(steps.timestep.state, last.timestep.state),
        avail_actions=with_last(steps.timestep.avail_actions, last.timestep.avail_actions),
        reset=with_last(steps.reset, last.reset),
        actions=steps.actions,
        reward=steps.reward,
        terminated=steps.terminated,
        valid=steps.valid,
    )
