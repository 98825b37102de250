"""How environments are run to fill a `Trajectory`: whole episodes, segments that reset themselves,
windows of environments that run on, and steps that are learnt from at once.
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
    """How environments are run to fill one `Trajectory`.

    Attributes:
      init: `(key) -> actor`, what stays alive between rollouts; `()` where every rollout starts
        fresh.
      collect: `(key, actor, Behaviour) -> (actor, Trajectory[T, B], metrics)`.
    """

    init: Callable[[Array], Any]
    collect: Callable[[Array, Any, rollout.Behaviour], tuple[Any, Trajectory, Metrics]]


def make_segment(stage: rollout.CollectorSetup, window: int) -> Collector:
    """Fresh environments, auto-reset inside the window: no padding, nothing stale.

    The true end of a truncated episode has an entry of its own; see `_advance`.

    Args:
      stage: what is run.  window: T, at least the longest episode.
    """

    def collect(
        key: Array, actor: tuple[()], behaviour: rollout.Behaviour
    ) -> tuple[tuple[()], Trajectory, Metrics]:
        key_start, key_steps = jax.random.split(key)
        keys = _step_keys(key_steps, window)
        first, starts = _draw_starts(stage, key_start, keys)
        step = _with_auto_reset(stage, behaviour, starts)
        last, steps = jax.lax.scan(step, stage.at_start(first), (jnp.arange(window), keys))
        return actor, _trajectory(steps, last), _metrics(steps)

    return Collector(_nothing, collect)


def make_window(stage: rollout.CollectorSetup, window: int, burn_in: int) -> Collector:
    """Environments that run on between rollouts: sequences may be shorter than an episode.

    A sequence is the last `burn_in` steps of the rollout before, not `valid`, then `window` new
    ones; `Trajectory.start` holds the carry and the last actions at its first step, as they were
    when it was collected.

    Args:
      stage: what is run.  window: new steps per rollout.  burn_in: at most `window`.
    Reference: Kapturowski et al. 2019 (R2D2), stored state and burn-in. Deviation: neighbouring
    sequences overlap in the burn-in only, so that each step is learnt from equally often; the
    gradient flows through the burn-in.
    """

    def init(key: Array) -> _WindowState:
        # Zeros until the first rollout, which begins with starts of its own: the environment's
        # reset is compiled once less.
        nobody = jax.tree.map(_zeros, jax.eval_shape(stage.start, key))
        tail = None
        if burn_in:
            nothing = jax.tree.map(
                lambda x: jnp.zeros((stage.n_envs, *x.shape[1:]), x.dtype),
                stage.recording.behaviour,
            )
            idle = stage.record(nobody, nobody.prev_actions, nothing, nobody)
            tail = jax.tree.map(lambda x: jnp.zeros((burn_in, *x.shape), x.dtype), idle)
        begun = jnp.zeros((), bool)
        return _WindowState(begun=begun, current=nobody, tail=tail, start=_start_of(nobody))

    def collect(
        key: Array, actor: _WindowState, behaviour: rollout.Behaviour
    ) -> tuple[_WindowState, Trajectory, Metrics]:
        key_start, key_steps = jax.random.split(key)
        keys = _step_keys(key_steps, window)
        first, fresh = _draw_starts(stage, key_start, keys)
        current = envs.select(actor.begun, actor.current, stage.at_start(first))
        step = _with_auto_reset(stage, behaviour, fresh)

        def remember(
            current: rollout.ActorState, x: Any
        ) -> tuple[rollout.ActorState, tuple[rollout.Step, SequenceStart]]:
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


def make_episode(stage: rollout.CollectorSetup, window: int) -> Collector:
    """One episode per sequence; what follows its end is not `valid` (PyMARL's semantics).

    An ended environment stands still: the entry after its last valid step, and every later one, is
    the true final observation.

    Args:
      stage: what is run.  window: T, at least the longest episode.
    """

    def run(
        actor: rollout.ActorState, keys: Array, behaviour: rollout.Behaviour
    ) -> tuple[rollout.ActorState, rollout.Step]:
        stepped, actions, remembered = stage.step(behaviour, actor, keys[0], keys[1])
        running = ~actor.ended
        step = stage.record(actor, actions, remembered, stepped)
        step = replace(step, valid=running, finished=step.finished & running)
        # The carry and the last actions keep changing: nothing after the end is valid.
        return replace(
            stepped,
            env_state=envs.select(actor.ended, actor.env_state, stepped.env_state),
            timestep=envs.select(actor.ended, actor.timestep, stepped.timestep),
            ended=actor.ended | stepped.ended,
        ), step

    def collect(
        key: Array, actor: tuple[()], behaviour: rollout.Behaviour
    ) -> tuple[tuple[()], Trajectory, Metrics]:
        key_start, key_steps = jax.random.split(key)
        first = stage.start(key_start)
        keys = _step_keys(key_steps, window)
        last, steps = jax.lax.scan(lambda current, k: run(current, k, behaviour), first, keys)
        return actor, _trajectory(steps, last), _metrics(steps)

    return Collector(_nothing, collect)


def on_host(spec: EnvSpec) -> Collector:
    """Of an environment that is stepped in Python, outside the compiled program."""

    def refuse(*arguments: Any) -> Any:
        del arguments
        raise config.ConfigError(
            f"env: {spec.name} is stepped in Python and cannot be part of a compiled program; "
            "`train`, `baseline` and `check-env` take it"
        )

    return Collector(_nothing, refuse)


class OnlineCollector(NamedTuple):
    """As `Collector`, learning after every env step.

    Attributes:
      init: `(key) -> actor`.
      collect: `(key, actor, memory, behave, learn) -> (actor, memory, metrics)`; `memory` is what
        `learn(memory, Trajectory[1, B], t i32[]) -> (memory, metrics)` changes and `behave(memory)
        -> Behaviour` acts with.
    """

    init: Callable[[Array], Any]
    collect: Callable[..., tuple[Any, Any, Metrics]]


def make_online(stage: rollout.CollectorSetup, window: int) -> OnlineCollector:
    """Environments that run on between rollouts; every step is learnt from before the next one.

    Args:
      stage: what is run.  window: T, env steps per rollout.
    """

    def init(key: Array) -> rollout.ActorState:
        return stage.start(key)

    def collect(
        key: Array,
        actor: rollout.ActorState,
        memory: Any,
        behave: Callable[[Any], rollout.Behaviour],
        learn: Callable[[Any, Trajectory, Array], tuple[Any, Metrics]],
    ) -> tuple[rollout.ActorState, Any, Metrics]:
        key_start, key_steps = jax.random.split(key)
        keys = _step_keys(key_steps, window)
        _, starts = _draw_starts(stage, key_start, keys)

        def step(carried: tuple[rollout.ActorState, Any], x: tuple[Array, Array]) -> Any:
            current, memory = carried
            # The trajectory of one step shows the true successor, so no end needs an entry.
            after, collected, stepped = _advance(
                stage, behave(memory), starts, current, x, holds=False
            )
            one = _trajectory(jax.tree.map(lambda leaf: leaf[None], collected), stepped)
            memory, metrics = learn(memory, replace(one, start=_start_of(current)), x[0])
            return (after, memory), (collected, metrics)

        numbered = (jnp.arange(window), keys)
        (actor, memory), (steps, metrics) = jax.lax.scan(step, (actor, memory), numbered)
        learnt = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), metrics)
        return actor, memory, {**_metrics(steps), **learnt}

    return OnlineCollector(init, collect)


@record
class _WindowState:
    """What the `window` collector keeps: environments (running once `begun`), the last `burn_in`
    steps (None for 0: an empty array has no sharding), and where those began.
    """

    begun: Array
    current: rollout.ActorState
    tail: rollout.Step | None
    start: SequenceStart


def _nothing(key: Array) -> tuple[()]:
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
    """Keys `[T, 3]` of every step: to act, to step, to reset."""
    return jax.random.split(key, (window, 3))


def _stride(env: envs.Env) -> int:
    """Steps that share a fresh start; 1 for the shortest games, whose episodes may last one."""
    return max(1, min(4, env.spec.max_steps // 8))


def _draw_starts(stage: rollout.CollectorSetup, key: Array, keys: Array) -> tuple[Any, Any]:
    """Fresh starts of a rollout, drawn together before it runs: a reset inside the step would be a
    quarter of a SMAX step's work, and another copy of it to compile.

    Args:
      key: of the first step's start.  keys: of all steps, from `_step_keys`.
    Returns:
      (the first `[B, ...]`, one for every `_stride` steps `[n, B, ...]`). An environment sees one
      of them twice only if an episode of it ends within `_stride` steps.
    """
    starts = jax.vmap(stage.draw)(jnp.concatenate([key[None], keys[:: _stride(stage.env), 2]]))
    return jax.tree.map(lambda x: x[0], starts), jax.tree.map(lambda x: x[1:], starts)


def _with_auto_reset(
    stage: rollout.CollectorSetup, behaviour: rollout.Behaviour, starts: Any
) -> Callable[..., Any]:
    """`(actor, (index, keys)) -> (actor, Step)`, a scan body; `starts` from `_draw_starts`."""

    def step(
        actor: rollout.ActorState, x: tuple[Array, Array]
    ) -> tuple[rollout.ActorState, rollout.Step]:
        return _advance(stage, behaviour, starts, actor, x)[:2]

    return step


def _advance(
    stage: rollout.CollectorSetup,
    behaviour: rollout.Behaviour,
    starts: Any,
    actor: rollout.ActorState,
    x: tuple[Array, Array],
    holds: bool = True,
) -> tuple[rollout.ActorState, rollout.Step, rollout.ActorState]:
    """One step of every environment; those that ended start a new episode.

    With `holds` the true end of a truncated episode keeps an entry, from which targets bootstrap:
    the fresh episode begins one entry later, and the transition in between is not `valid` and steps
    no environment.

    Returns:
      (actor after it, what is stored, actor before any reset).
    """
    index, keys = x
    stepped, actions, remembered = stage.step(behaviour, actor, keys[0], keys[1])
    collected = stage.record(actor, actions, remembered, stepped)
    begins, waits = stepped.ended, jnp.zeros_like(stepped.ended)
    if holds:
        held = actor.ended
        waits = stepped.timestep.truncated & ~held
        begins = held | (stepped.ended & ~waits)
        collected = replace(
            collected,
            terminated=collected.terminated & ~held,
            valid=~held,
            finished=collected.finished & ~held,
        )
    fresh_state, fresh = jax.tree.map(lambda leaf: leaf[index // _stride(stage.env)], starts)
    mean_action = stepped.mean_action
    after = replace(
        stepped,
        env_state=envs.select(begins, fresh_state, stepped.env_state),
        timestep=envs.select(begins, fresh, stepped.timestep),
        reset=begins,
        prev_actions=envs.select(begins, no_action(actions), actions),
        mean_action=envs.select(begins, jax.tree.map(jnp.zeros_like, mean_action), mean_action),
        ended=waits,
    )
    return after, collected, stepped


def _metrics(steps: rollout.Step) -> Metrics:
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
