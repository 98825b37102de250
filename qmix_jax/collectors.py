"""Collectors: fill a `Trajectory` with padded episodes, auto-reset segments or windows of
continuing environments, or learn online after every step.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax import config, rollout
from qmix_jax.core import masked
from qmix_jax.envs import base as envs
from qmix_jax.types import (
    Array,
    EnvSpec,
    Metrics,
    SequenceStart,
    Trajectory,
    no_action,
    record,
)


class Collector(NamedTuple):
    """Runs environments to fill a `Trajectory`.

    Attributes:
      init: `(key) -> actor`, the state between rollouts; `()` if every rollout starts with a reset.
      collect: `(key, actor, BoundPolicy) -> (actor, Trajectory[T, B], metrics)`.
    """

    init: Callable[[Array], Any]
    collect: Callable[[Array, Any, rollout.BoundPolicy], tuple[Any, Trajectory, Metrics]]


def make_segment(setup: rollout.CollectorSetup, window: int) -> Collector:
    """Resets all environments at the start of a rollout, and each again when its episode ends.

    The true end of a truncated episode gets its own entry; see `_advance`.

    Args:
      setup: environments and stored fields.
      window: T, at least the longest episode.
    """

    def collect(
        key: Array, actor: tuple[()], policy: rollout.BoundPolicy
    ) -> tuple[tuple[()], Trajectory, Metrics]:
        key_start, key_steps = jax.random.split(key)
        keys = _step_keys(key_steps, window)
        first, starts = _draw_starts(setup, key_start, keys)
        step = _with_auto_reset(setup, policy, starts)
        last, steps = jax.lax.scan(step, setup.at_start(first), (jnp.arange(window), keys))
        return actor, _trajectory(steps, last), _metrics(steps)

    return Collector(_init_nothing, collect)


def make_window(setup: rollout.CollectorSetup, window: int, burn_in: int) -> Collector:
    """Continues environments between rollouts; sequences may be shorter than an episode.

    A sequence is the last `burn_in` steps of the previous rollout, not `valid`, then `window` new
    ones; `Trajectory.start` holds the carry and the last actions at its first step, as they were
    when it was collected.

    Args:
      setup: environments and stored fields.
      window: new steps per rollout.
      burn_in: at most `window`.
    Reference: Kapturowski et al. 2019 (R2D2), stored state and burn-in. Deviation: neighbouring
    sequences overlap in the burn-in only, so that each step is learnt from equally often; the
    gradient flows through the burn-in.
    """

    def init(key: Array) -> _WindowState:
        # Zeros, which the first rollout replaces: one compiled reset fewer.
        blank = jax.tree.map(_zeros, jax.eval_shape(setup.start, key))
        tail = None
        if burn_in:
            behaviour = jax.tree.map(
                lambda x: jnp.zeros((setup.n_envs, *x.shape[1:]), x.dtype),
                setup.recording.behaviour,
            )
            step = setup.record(blank, blank.prev_actions, behaviour, blank)
            tail = jax.tree.map(lambda x: jnp.zeros((burn_in, *x.shape), x.dtype), step)
        begun = jnp.zeros((), bool)
        return _WindowState(begun=begun, current=blank, tail=tail, start=_start_of(blank))

    def collect(
        key: Array, actor: _WindowState, policy: rollout.BoundPolicy
    ) -> tuple[_WindowState, Trajectory, Metrics]:
        key_start, key_steps = jax.random.split(key)
        keys = _step_keys(key_steps, window)
        first, fresh = _draw_starts(setup, key_start, keys)
        current = envs.select(actor.begun, actor.current, setup.at_start(first))
        step = _with_auto_reset(setup, policy, fresh)

        def step_with_start(
            current: rollout.ActorState, x: Any
        ) -> tuple[rollout.ActorState, tuple[rollout.Step, SequenceStart]]:
            next_actor, collected = step(current, x)
            return next_actor, (collected, _start_of(current))

        inputs = (jnp.arange(window), keys)
        last, (steps, starts) = jax.lax.scan(step_with_start, current, inputs)
        stored, tail, start = steps, None, _start_of(last)
        if burn_in:
            stored = jax.tree.map(lambda *parts: jnp.concatenate(parts), actor.tail, steps)
            tail, start = jax.tree.map(lambda x: x[window - burn_in :], (steps, starts))
            tail = replace(tail, valid=jnp.zeros_like(tail.valid))
            start = jax.tree.map(lambda x: x[0], start)
        trajectory = replace(_trajectory(stored, last), start=actor.start)
        begun = jnp.ones((), bool)
        actor = _WindowState(begun=begun, current=last, tail=tail, start=start)
        return actor, trajectory, _metrics(steps)

    return Collector(init, collect)


def make_episode(setup: rollout.CollectorSetup, window: int) -> Collector:
    """Collects one episode per sequence; entries after its end are not `valid` (as in PyMARL).

    An ended environment is frozen: every entry after its last valid step holds the true final
    observation.

    Args:
      setup: environments and stored fields.
      window: T, at least the longest episode.
    """

    def run(
        actor: rollout.ActorState, keys: Array, policy: rollout.BoundPolicy
    ) -> tuple[rollout.ActorState, rollout.Step]:
        next_actor, actions, behaviour = setup.step(policy, actor, keys[0], keys[1])
        running = ~actor.ended
        step = setup.record(actor, actions, behaviour, next_actor)
        step = replace(step, valid=running, finished=step.finished & running)
        # The carry and the last actions keep changing: nothing after the end is valid.
        return replace(
            next_actor,
            env_state=envs.select(actor.ended, actor.env_state, next_actor.env_state),
            timestep=envs.select(actor.ended, actor.timestep, next_actor.timestep),
            ended=actor.ended | next_actor.ended,
        ), step

    def collect(
        key: Array, actor: tuple[()], policy: rollout.BoundPolicy
    ) -> tuple[tuple[()], Trajectory, Metrics]:
        key_start, key_steps = jax.random.split(key)
        first = setup.start(key_start)
        keys = _step_keys(key_steps, window)
        last, steps = jax.lax.scan(lambda current, k: run(current, k, policy), first, keys)
        return actor, _trajectory(steps, last), _metrics(steps)

    return Collector(_init_nothing, collect)


def for_host_env(spec: EnvSpec) -> Collector:
    """Stands in for the collector of an environment stepped in Python; `collect` raises."""

    def refuse(*arguments: Any) -> Any:
        del arguments
        raise config.ConfigError(
            f"env: {spec.name} is stepped in Python and cannot be part of a compiled program; use "
            "`train`, `baseline` or `check-env`"
        )

    return Collector(_init_nothing, refuse)


class OnlineCollector(NamedTuple):
    """As `Collector`, but learns after every env step.

    Attributes:
      init: `(key) -> actor`.
      collect: `(key, actor, learner, bind, learn) -> (actor, learner, metrics)` with functions
        `bind(learner) -> BoundPolicy` and `learn(learner, Trajectory[1, B], t i32[]) -> (learner,
        metrics)`.
    """

    init: Callable[[Array], Any]
    collect: Callable[..., tuple[Any, Any, Metrics]]


def make_online(setup: rollout.CollectorSetup, window: int) -> OnlineCollector:
    """Continues environments between rollouts and learns from every step before the next one.

    Args:
      setup: environments and stored fields.
      window: T, env steps per rollout.
    """

    def collect(
        key: Array,
        actor: rollout.ActorState,
        learner: Any,
        bind: Callable[[Any], rollout.BoundPolicy],
        learn: Callable[[Any, Trajectory, Array], tuple[Any, Metrics]],
    ) -> tuple[rollout.ActorState, Any, Metrics]:
        key_start, key_steps = jax.random.split(key)
        keys = _step_keys(key_steps, window)
        _, starts = _draw_starts(setup, key_start, keys)

        def step(carried: tuple[rollout.ActorState, Any], x: tuple[Array, Array]) -> Any:
            current, learner = carried
            # A one-step trajectory holds the true successor, so ends need no entry.
            next_actor, collected, unreset = _advance(
                setup, bind(learner), starts, current, x, end_entries=False
            )
            transition = _trajectory(jax.tree.map(lambda leaf: leaf[None], collected), unreset)
            transition = replace(transition, start=_start_of(current))
            learner, metrics = learn(learner, transition, x[0])
            return (next_actor, learner), (collected, metrics)

        inputs = (jnp.arange(window), keys)
        (actor, learner), (steps, metrics) = jax.lax.scan(step, (actor, learner), inputs)
        metrics = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)
        return actor, learner, {**_metrics(steps), **metrics}

    return OnlineCollector(setup.start, collect)


@record
class _WindowState:
    """State of the `window` collector: environments (zeros until `begun`), the last `burn_in`
    steps (None for 0: an empty array has no sharding), and where the next sequence starts.
    """

    begun: Array
    current: rollout.ActorState
    tail: rollout.Step | None
    start: SequenceStart


def _init_nothing(key: Array) -> tuple[()]:
    del key
    return ()


def _zeros(like: jax.ShapeDtypeStruct) -> Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), like.shape)
    return jnp.zeros(like.shape, like.dtype)


def _start_of(actor: rollout.ActorState) -> SequenceStart:
    return SequenceStart(
        carry=actor.carry, prev_actions=actor.prev_actions, mean_action=actor.mean_action
    )


def _step_keys(key: Array, window: int) -> Array:
    """Keys `[T, 3]` to act, to step and to reset."""
    return jax.random.split(key, (window, 3))


def _stride(env: envs.Env) -> int:
    """Steps that share a start; 1 for the shortest games, whose episodes may last one step."""
    return max(1, min(4, env.spec.max_steps // 8))


def _draw_starts(setup: rollout.CollectorSetup, key: Array, keys: Array) -> tuple[Any, Any]:
    """Draws all starts of a rollout before it runs: a reset inside the step would take a quarter of
    a SMAX step, and compile another copy.

    Args:
      key: for the start of the first step.
      keys: of all steps, from `_step_keys`.
    Returns:
      (first start `[B, ...]`, one start per `_stride` steps `[n, B, ...]`). An environment uses a
      start twice only if one of its episodes ends within `_stride` steps.
    """
    starts = jax.vmap(setup.reset_envs)(
        jnp.concatenate([key[None], keys[:: _stride(setup.env), 2]])
    )
    return jax.tree.map(lambda x: x[0], starts), jax.tree.map(lambda x: x[1:], starts)


def _with_auto_reset(
    setup: rollout.CollectorSetup, policy: rollout.BoundPolicy, starts: Any
) -> Callable[..., Any]:
    """Returns the scan body `(actor, (index, keys)) -> (actor, Step)`."""

    def step(
        actor: rollout.ActorState, x: tuple[Array, Array]
    ) -> tuple[rollout.ActorState, rollout.Step]:
        return _advance(setup, policy, starts, actor, x)[:2]

    return step


def _advance(
    setup: rollout.CollectorSetup,
    policy: rollout.BoundPolicy,
    starts: Any,
    actor: rollout.ActorState,
    x: tuple[Array, Array],
    end_entries: bool = True,
) -> tuple[rollout.ActorState, rollout.Step, rollout.ActorState]:
    """Steps every environment; those that ended start a new episode.

    With `end_entries` the true end of a truncated episode gets its own entry, from which targets
    bootstrap: the next episode starts one entry later, and the transition in between is not `valid`
    and steps no environment.

    Returns:
      (next actor state, stored step, next actor state before any reset).
    """
    index, keys = x
    unreset, actions, behaviour = setup.step(policy, actor, keys[0], keys[1])
    collected = setup.record(actor, actions, behaviour, unreset)
    starting, at_end = unreset.ended, jnp.zeros_like(unreset.ended)
    if end_entries:
        was_at_end = actor.ended
        at_end = unreset.timestep.truncated & ~was_at_end
        starting = was_at_end | (unreset.ended & ~at_end)
        collected = replace(
            collected,
            terminated=collected.terminated & ~was_at_end,
            valid=~was_at_end,
            finished=collected.finished & ~was_at_end,
        )
    env_state, timestep = jax.tree.map(lambda leaf: leaf[index // _stride(setup.env)], starts)
    mean_action = unreset.mean_action
    next_actor = replace(
        unreset,
        env_state=envs.select(starting, env_state, unreset.env_state),
        timestep=envs.select(starting, timestep, unreset.timestep),
        reset=starting,
        prev_actions=envs.select(starting, no_action(actions), actions),
        mean_action=envs.select(starting, jax.tree.map(jnp.zeros_like, mean_action), mean_action),
        ended=at_end,
    )
    return next_actor, collected, unreset


def _metrics(steps: rollout.Step) -> Metrics:
    """Means over the episodes that ended in the rollout. Episodes cut off by the window are not
    counted, which favours short episodes a little.
    """
    metrics = {
        f"rollout/{name}": masked.total(value, steps.finished)
        for name, value in steps.metrics.items()
    }
    metrics["rollout/valid_fraction"] = masked.total(
        steps.valid.astype(jnp.float32), jnp.ones_like(steps.valid)
    )
    return metrics


def _trajectory(steps: rollout.Step, last: rollout.ActorState) -> Trajectory:
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
        behaviour=steps.behaviour,
        mean_action=steps.mean_action,
    )
