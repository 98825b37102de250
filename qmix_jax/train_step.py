"""collect -> learn, for one member: warm-up, one update, and a loop of updates."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax import learner as learners
from qmix_jax import replay, rollout
from qmix_jax.core import schedules
from qmix_jax.factorisations import base as factorisations
from qmix_jax.types import Array, Clock, HParams, Metrics, Trajectory, record

INIT, WARM_UP, TRAIN, EVAL = range(4)
"""Streams of a member's randomness: `fold_in(fold_in(key(seed), STREAM), index)`."""

NEVER = jnp.iinfo(jnp.int32).max


@record
class TrainState:
    """All that one member carries: its key (constant), actor, learner and replay."""

    key: Array
    actor: Any
    learner: learners.LearnerState
    replay: replay.BufferState


@record
class Tally:
    """Metrics summed since the last row was written; `first_nonfinite` i32[] is the first update
    whose loss or gradient norm was not finite, `NEVER` if none was.
    """

    metrics: Metrics
    first_nonfinite: Array


class Timeline(NamedTuple):
    """Static numbers that place an update in a run.

    Attributes:
      n_envs: sequences per update.
      window: steps per sequence.
      gradient_steps: K, gradient steps per update.
      warm_up: collects before the first update.
    """

    n_envs: int
    window: int
    gradient_steps: int
    warm_up: int

    def clock(self, update_index: Array) -> Clock:
        """The clock at the start of update `update_index` i32[] (negative during warm-up)."""
        collects = update_index + self.warm_up
        return Clock(
            update_index=update_index,
            gradient_step=update_index * self.gradient_steps,
            env_steps=collects.astype(jnp.float32) * (self.n_envs * self.window),
            n_added=collects * self.n_envs,
        )


class TrainStep(NamedTuple):
    """Attributes:
    init: `(seed i32[]) -> TrainState`.
    warm_up: `(TrainState, HParams) -> TrainState`, fills the replay.
    train: `(TrainState, Tally, HParams, first_update i32[], n_updates i32[])
      -> (TrainState, Tally)`.
    learn: `(LearnerState, replay, Trajectory, HParams, Clock, key)
      -> (LearnerState, replay, metrics)`, also for data made elsewhere.
    empty_tally: `(TrainState, HParams) -> Tally` of zeros.
    """

    init: Callable[[Array], TrainState]
    warm_up: Callable[[TrainState, HParams], TrainState]
    train: Callable[..., tuple[TrainState, Tally]]
    learn: Callable[..., tuple[learners.LearnerState, replay.BufferState, Metrics]]
    empty_tally: Callable[[TrainState, HParams], Tally]


def stream(key: Array, name: int, index: Array) -> Array:
    """The key of one event: `name` is one of INIT, WARM_UP, TRAIN, EVAL; `index` i32[]."""
    return jax.random.fold_in(jax.random.fold_in(key, name), index)


def make(
    factorisation: factorisations.Factorisation,
    collector: rollout.Collector,
    learner: learners.Learner,
    buffer: replay.Buffer,
    timeline: Timeline,
) -> TrainStep:
    """Composes the phases. Each is a plain function; the only `jit` is the population's."""

    collect = partial(_collect, factorisation, collector)
    learn = partial(_learn, learner, buffer, timeline)
    warm_up = partial(_warm_up, collect, buffer, timeline)

    def init(seed: Array) -> TrainState:
        key = jax.random.key(seed)
        key_learner, key_actor = jax.random.split(stream(key, INIT, jnp.zeros((), jnp.int32)))
        return TrainState(
            key=key,
            actor=collector.init(key_actor),
            learner=learner.init(key_learner),
            replay=buffer.init(),
        )

    def train_step(state: TrainState, hparams: HParams, clock: Clock) -> tuple[TrainState, Metrics]:
        key_rollout, key_learn = jax.random.split(stream(state.key, TRAIN, clock.update_index))
        epsilon = schedules.linear(hparams.epsilon, clock.env_steps)
        actor, trajectory, seen = collect(key_rollout, state.actor, state.learner.params, epsilon)
        learnt, ring, metrics = learn(
            state.learner, state.replay, trajectory, hparams, clock, key_learn
        )
        state = replace(state, actor=actor, learner=learnt, replay=ring)
        return state, {**seen, **metrics, "train/epsilon": (epsilon, jnp.ones(()))}

    def train(
        state: TrainState, tally: Tally, hparams: HParams, first_update: Array, n_updates: Array
    ) -> tuple[TrainState, Tally]:
        def body(index: Array, carried: tuple[TrainState, Tally]) -> tuple[TrainState, Tally]:
            state, tally = carried
            update_index = first_update + index
            state, metrics = train_step(state, hparams, timeline.clock(update_index))
            return state, add_up(tally, metrics, update_index)

        # A loop with a traced bound, not a scan: one program serves any number of updates.
        return jax.lax.fori_loop(0, n_updates, body, (state, tally))

    def empty_tally(state: TrainState, hparams: HParams) -> Tally:
        clock = timeline.clock(jnp.zeros((), jnp.int32))
        shapes = jax.eval_shape(lambda *args: train_step(*args)[1], state, hparams, clock)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return Tally(metrics=zeros, first_nonfinite=jnp.full((), NEVER, jnp.int32))

    return TrainStep(init, warm_up, train, learn, empty_tally)


def behaviour(
    factorisation: factorisations.Factorisation, params: Any, epsilon: Array
) -> rollout.Act:
    """The acting function of fixed parameters and exploration rate."""

    def act(
        carry: Any, obs: Array, prev_actions: Array, reset: Array, avail: Array, key: Array
    ) -> tuple[Any, Array]:
        return factorisation.act(params, carry, obs, prev_actions, reset, avail, epsilon, key)

    return act


def add_up(tally: Tally, metrics: Metrics, update_index: Array) -> Tally:
    """Adds one update's metrics and notes the first update that was not finite."""
    watched = metrics["train/loss"][0] + metrics["train/grad_norm"][0]
    failed = jnp.where(jnp.isfinite(watched), NEVER, update_index)
    return Tally(
        metrics=jax.tree.map(jnp.add, tally.metrics, metrics),
        first_nonfinite=jnp.minimum(tally.first_nonfinite, failed),
    )


def _collect(
    factorisation: factorisations.Factorisation,
    collector: rollout.Collector,
    key: Array,
    actor: Any,
    params: Any,
    epsilon: Array,
) -> tuple[Any, Trajectory, Metrics]:
    return collector.collect(key, actor, behaviour(factorisation, params, epsilon))


def _warm_up(
    collect: Callable,
    buffer: replay.Buffer,
    timeline: Timeline,
    state: TrainState,
    hparams: HParams,
) -> TrainState:
    """Fills the replay without learning."""

    def body(index: Array, state: TrainState) -> TrainState:
        clock = timeline.clock(index - timeline.warm_up)
        epsilon = schedules.linear(hparams.epsilon, clock.env_steps)
        key = stream(state.key, WARM_UP, index)
        actor, trajectory, _ = collect(key, state.actor, state.learner.params, epsilon)
        return replace(state, actor=actor, replay=buffer.add(state.replay, trajectory, clock))

    return jax.lax.fori_loop(0, timeline.warm_up, body, state)


def _learn(
    learner: learners.Learner,
    buffer: replay.Buffer,
    timeline: Timeline,
    state: learners.LearnerState,
    ring: replay.BufferState,
    trajectory: Trajectory,
    hparams: HParams,
    clock: Clock,
    key: Array,
) -> tuple[learners.LearnerState, replay.BufferState, Metrics]:
    """Adds the trajectory, then K times (sample, gradient step)."""
    ring = buffer.add(ring, trajectory, clock)
    clock = replace(clock, n_added=clock.n_added + timeline.n_envs)

    def step(
        carried: tuple[learners.LearnerState, replay.BufferState], inputs: tuple[Array, Array]
    ) -> tuple[tuple[learners.LearnerState, replay.BufferState], Metrics]:
        state, ring = carried
        k, key_step = inputs
        key_sample, key_loss = jax.random.split(key_step)
        batch = buffer.sample(ring, key_sample, clock)
        gradient_step = clock.gradient_step + k
        state, metrics, priority = learner.update(state, batch, hparams, gradient_step, key_loss)
        return (state, buffer.update(ring, batch, priority)), metrics

    steps = jnp.arange(timeline.gradient_steps)
    keys = jax.random.split(key, timeline.gradient_steps)
    (state, ring), metrics = jax.lax.scan(step, (state, ring), (steps, keys))
    return state, ring, jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)
