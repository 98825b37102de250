"""Environments and any acting function -> `Trajectory`."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax.core import masked
from qmix_jax.envs import base as envs
from qmix_jax.types import Array, Metrics, Start, TimeStep, Trajectory, record

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
      returned, length: f32[B], rewards and steps of the episode so far.
    """

    env_state: Any
    timestep: TimeStep
    reset: Array
    carry: Any
    prev_actions: Array
    ended: Array
    returned: Array
    length: Array


@record
class _Step:
    """One collected step: what the environments showed, what was done, and what came of it.

    `metrics` are the episode's so far, return and length included; they count where it `finished`.
    """

    obs: Array
    state: Array
    avail_actions: Array
    reset: Array
    actions: Array
    reward: Array
    terminated: Array
    valid: Array
    finished: Array
    metrics: dict[str, Array]


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
    return _at_start(jax.vmap(env.reset)(jax.random.split(key, n_envs)), carry)


def act_and_step(
    env: envs.Env, act: Act, actor: ActorState, key_act: Array, key_env: Array
) -> tuple[ActorState, Array]:
    """One step of every environment, without any reset.

    Returns:
      (actor with the new carry and environments, actions i32[B, N]).
    """
    timestep = actor.timestep
    carry, actions = act(
        actor.carry, timestep.obs, actor.prev_actions, actor.reset, timestep.avail_actions, key_act
    )
    keys = jax.random.split(key_env, actions.shape[0])
    env_state, following = jax.vmap(env.step)(keys, actor.env_state, actions)
    stepped = ActorState(
        env_state=env_state,
        timestep=following,
        reset=jnp.zeros_like(actor.reset),
        carry=carry,
        prev_actions=actions,
        ended=following.terminated | following.truncated,
        returned=jnp.where(actor.reset, 0.0, actor.returned) + following.reward,
        length=jnp.where(actor.reset, 0.0, actor.length) + 1.0,
    )
    return stepped, actions


def make_segment(
    env: envs.Env, initial_carry: Callable[[int], Any], n_envs: int, window: int
) -> Collector:
    """Fresh environments, auto-reset inside the window: no padding, nothing stale.

    A truncated step's successor is overwritten by the reset, so such a step is not `valid`.

    Args:
      initial_carry: `(batch_size) -> carry`, the agent's.
      n_envs: B.  window: T, at least the longest episode.
    """
    carry = initial_carry(n_envs)

    def collect(key: Array, actor: tuple[()], act: Act) -> tuple[tuple[()], Trajectory, Metrics]:
        key_start, key_steps = jax.random.split(key)
        keys = _step_keys(key_steps, window)
        first, starts = _draw_starts(env, key_start, keys, n_envs)
        step = _with_auto_reset(env, act, starts)
        last, steps = jax.lax.scan(step, _at_start(first, carry), (jnp.arange(window), keys))
        return actor, _trajectory(steps, last), _metrics(steps)

    return Collector(_nothing, collect)


def make_window(
    env: envs.Env,
    initial_carry: Callable[[int], Any],
    n_envs: int,
    window: int,
    burn_in: int,
) -> Collector:
    """Environments that run on between rollouts: sequences may be shorter than an episode.

    A sequence is the last `burn_in` steps of the rollout before, not `valid`, then `window` new
    ones; `Trajectory.start` holds the carry and the last actions at its first step, as they were
    when it was collected.

    Args:
      initial_carry: `(batch_size) -> carry`, the agent's.
      n_envs: B.  window: new steps per rollout.  burn_in: at most `window`.
    Reference: Kapturowski et al. 2019 (R2D2), stored state and burn-in. Deviation: neighbouring
    sequences overlap in the burn-in only, so that each step is learnt from equally often; the
    gradient flows through the burn-in.
    """

    def init(key: Array) -> _WindowState:
        # Zeros until the first rollout, which begins with starts of its own: the environment's
        # reset is compiled once less.
        carry = initial_carry(n_envs)
        shapes = jax.eval_shape(lambda k: start(env, k, n_envs, carry), key)
        nobody = jax.tree.map(_zeros, shapes)
        tail = None
        if burn_in:
            idle = _record(nobody, nobody.prev_actions, nobody)
            tail = jax.tree.map(lambda x: jnp.zeros((burn_in, *x.shape), x.dtype), idle)
        begun = jnp.zeros((), bool)
        return _WindowState(begun=begun, current=nobody, tail=tail, start=_start_of(nobody))

    def collect(
        key: Array, actor: _WindowState, act: Act
    ) -> tuple[_WindowState, Trajectory, Metrics]:
        key_start, key_steps = jax.random.split(key)
        keys = _step_keys(key_steps, window)
        first, fresh = _draw_starts(env, key_start, keys, n_envs)
        first = _at_start(first, initial_carry(n_envs))
        current = envs.select(actor.begun, actor.current, first)
        step = _with_auto_reset(env, act, fresh)

        def remember(current: ActorState, x: Any) -> tuple[ActorState, tuple[_Step, Start]]:
            after, stepped = step(current, x)
            return after, (stepped, _start_of(current))

        numbered = (jnp.arange(window), keys)
        last, (steps, starts) = jax.lax.scan(remember, current, numbered)
        stored, tail, begin = steps, None, _start_of(last)
        if burn_in:
            stored = jax.tree.map(lambda *parts: jnp.concatenate(parts), actor.tail, steps)
            tail, begin = jax.tree.map(lambda x: x[window - burn_in :], (steps, starts))
            tail = replace(tail, valid=jnp.zeros_like(tail.valid))
            begin = jax.tree.map(lambda x: x[0], begin)
        trajectory = replace(_trajectory(stored, last), start=actor.start)
        begun = jnp.ones((), bool)
        after = _WindowState(begun=begun, current=last, tail=tail, start=begin)
        return after, trajectory, _metrics(steps)

    return Collector(init, collect)


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
    carry = initial_carry(n_envs)

    def run(actor: ActorState, keys: Array, act: Act) -> tuple[ActorState, _Step]:
        stepped, actions = act_and_step(env, act, actor, keys[0], keys[1])
        running = ~actor.ended
        step = _record(actor, actions, stepped)
        step = replace(step, valid=running, finished=step.finished & running)
        # The carry and the last actions may go on: nothing of them is valid any more.
        return replace(
            stepped,
            env_state=envs.select(actor.ended, actor.env_state, stepped.env_state),
            timestep=envs.select(actor.ended, actor.timestep, stepped.timestep),
            ended=actor.ended | stepped.ended,
        ), step

    def collect(key: Array, actor: tuple[()], act: Act) -> tuple[tuple[()], Trajectory, Metrics]:
        key_start, key_steps = jax.random.split(key)
        first = start(env, key_start, n_envs, carry)
        keys = _step_keys(key_steps, window)
        last, steps = jax.lax.scan(lambda current, k: run(current, k, act), first, keys)
        return actor, _trajectory(steps, last), _metrics(steps)

    return Collector(_nothing, collect)


@record
class _WindowState:
    """What the `window` collector keeps: environments (running once `begun`), the last `burn_in`
    steps (None for 0: an empty array has no sharding), and where those began.
    """

    begun: Array
    current: ActorState
    tail: _Step | None
    start: Start


def _nothing(key: Array) -> tuple[()]:
    del key
    return ()


def _at_start(started: tuple[Any, TimeStep], carry: Any) -> ActorState:
    env_state, timestep = started
    n_envs, n_agents = timestep.obs.shape[:2]
    flags, zeros = jnp.zeros((n_envs,), bool), jnp.zeros((n_envs,))
    return ActorState(
        env_state=env_state,
        timestep=timestep,
        reset=~flags,
        carry=carry,
        prev_actions=jnp.full((n_envs, n_agents), -1, jnp.int32),
        ended=flags,
        returned=zeros,
        length=zeros,
    )


def _zeros(like: jax.ShapeDtypeStruct) -> Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), like.shape)
    return jnp.zeros(like.shape, like.dtype)


def _start_of(actor: ActorState) -> Start:
    return Start(carry=actor.carry, prev_actions=actor.prev_actions)


def _step_keys(key: Array, window: int) -> Array:
    """Keys `[T, 3]` of every step: to act, to step, to reset."""
    return jax.random.split(key, (window, 3))


def _stride(env: envs.Env) -> int:
    """Steps that share a fresh start; 1 for the shortest games, whose episodes may last one."""
    return max(1, min(4, env.spec.max_steps // 8))


def _draw_starts(env: envs.Env, key: Array, keys: Array, n_envs: int) -> tuple[Any, Any]:
    """Fresh starts of a rollout, drawn together before it runs: a reset inside the step would be a
    quarter of a SMAX step's work, and another copy of it to compile.

    Args:
      key: of the first step's start.  keys: of all steps, from `_step_keys`.
    Returns:
      (the first `[B, ...]`, one for every `_stride` steps `[n, B, ...]`). An environment sees one
      of them twice only if an episode of it ends within `_stride` steps.
    """
    drawn = jnp.concatenate([key[None], keys[:: _stride(env), 2]])
    starts = jax.vmap(lambda k: jax.vmap(env.reset)(jax.random.split(k, n_envs)))(drawn)
    return jax.tree.map(lambda x: x[0], starts), jax.tree.map(lambda x: x[1:], starts)


def _with_auto_reset(env: envs.Env, act: Act, starts: Any) -> Callable[..., Any]:
    """`(actor, (step index, key)) -> (actor, _Step)`, a scan body; `starts` from `_draw_starts`."""

    def step(actor: ActorState, x: tuple[Array, Array]) -> tuple[ActorState, _Step]:
        index, keys = x
        stepped, actions = act_and_step(env, act, actor, keys[0], keys[1])
        fresh_state, fresh = jax.tree.map(lambda leaf: leaf[index // _stride(env)], starts)
        after = replace(
            stepped,
            env_state=envs.select(stepped.ended, fresh_state, stepped.env_state),
            timestep=envs.select(stepped.ended, fresh, stepped.timestep),
            reset=stepped.ended,
            prev_actions=jnp.where(stepped.ended[:, None], -1, actions),
        )
        return after, _record(actor, actions, stepped)

    return step


def _record(actor: ActorState, actions: Array, stepped: ActorState) -> _Step:
    shown, following = actor.timestep, stepped.timestep
    return _Step(
        obs=shown.obs,
        state=shown.state,
        avail_actions=shown.avail_actions,
        reset=actor.reset,
        actions=actions,
        reward=following.reward,
        terminated=following.terminated,
        valid=~following.truncated,
        finished=stepped.ended,
        metrics={"return": stepped.returned, "length": stepped.length, **following.metrics},
    )


def _metrics(steps: _Step) -> Metrics:
    """Means over the episodes that ended in the rollout (a fresh rollout's last episodes, which the
    window cuts off, are not counted; that favours short episodes a little).
    """
    metrics = {
        f"rollout/{name}": masked.total(value, steps.finished)
        for name, value in steps.metrics.items()
    }
    metrics["rollout/valid_fraction"] = masked.total(
        steps.valid.astype(jnp.float32), jnp.ones_like(steps.valid)
    )
    return metrics


def _trajectory(steps: _Step, last: ActorState) -> Trajectory:
    def with_last(values: Array, final: Array) -> Array:
        return jnp.concatenate([values, final[None]])

    return Trajectory(
        obs=with_last(steps.obs, last.timestep.obs),
        state=with_last(steps.state, last.timestep.state),
        avail_actions=with_last(steps.avail_actions, last.timestep.avail_actions),
        reset=with_last(steps.reset, last.reset),
        actions=steps.actions,
        reward=steps.reward,
        terminated=steps.terminated,
        valid=steps.valid,
    )
