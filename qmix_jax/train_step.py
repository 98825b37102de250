"""collect -> learn, for one member: one update, and a loop of updates.

Warm-up is the same loop at negative update indices, where the number of gradient steps is 0: one
program, so the environment is compiled once less.
"""

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
WATCHED = ("train/loss", "train/grad_norm")


@record
class TrainState:
    """All that one member carries: its key (constant), actor, learner and replay; `active` bool[]
    is False once its loss or gradient was not finite, and then its learner stands still.
    """

    key: Array
    active: Array
    actor: Any
    learner: learners.LearnerState
    replay: replay.BufferState


@record
class Tally:
    """Metrics summed since the last row was written; `first_nonfinite` holds for each of `WATCHED`
    the first update i32[] in which it was not finite, `NEVER` if there is none.
    """

    metrics: Metrics
    first_nonfinite: dict[str, Array]


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
        """The clock at the start of update `update_index` i32[], negative during warm-up."""
        collects = update_index + self.warm_up
        return Clock(
            update_index=update_index,
            gradient_step=update_index * self.gradient_steps,
            env_steps=collects.astype(jnp.float32) * (self.n_envs * self.window),
            n_added=collects * self.n_envs,
        )

    def event(self, key: Array, update_index: Array) -> Array:
        """The key of an update: warm-up has its own stream, so its length moves no later draw."""
        warming = update_index < 0
        index = jnp.where(warming, update_index + self.warm_up, update_index)
        return stream(key, jnp.where(warming, WARM_UP, TRAIN), index)


class TrainStep(NamedTuple):
    """Attributes:
    init: `(seed i32[]) -> TrainState`.
    train: `(TrainState, Tally, HParams, first_update i32[], n_updates i32[])
      -> (TrainState, Tally)`; updates below 0 only fill the replay.
    learn: `(LearnerState, replay, Trajectory, HParams, Clock, key)
      -> (LearnerState, replay, metrics)`, also for data made elsewhere.
    empty_tally: `(TrainState, HParams) -> Tally` of zeros.
    absorb: `(TrainState, Trajectory, HParams, Clock, key) -> (TrainState, metrics)`: `learn`, and a
      member whose loss is not finite stands still.
    """

    init: Callable[[Array], TrainState]
    train: Callable[..., tuple[TrainState, Tally]]
    learn: Callable[..., tuple[learners.LearnerState, replay.BufferState, Metrics]]
    empty_tally: Callable[[TrainState, HParams], Tally]
    absorb: Callable[..., tuple[TrainState, Metrics]]


def stream(key: Array, name: int | Array, index: Array) -> Array:
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

    init = partial(_init, collector, learner, buffer)
    learn = partial(_learn, learner, buffer, timeline)

    def absorb(
        state: TrainState, trajectory: Trajectory, hparams: HParams, clock: Clock, key: Array
    ) -> tuple[TrainState, Metrics]:
        learnt, ring, metrics = learn(state.learner, state.replay, trajectory, hparams, clock, key)
        active = state.active & _finite(metrics)
        learnt = jax.tree.map(partial(jnp.where, active), learnt, state.learner)
        return replace(state, active=active, learner=learnt, replay=ring), metrics

    def train_step(state: TrainState, hparams: HParams, clock: Clock) -> tuple[TrainState, Metrics]:
        key_rollout, key_learn = jax.random.split(timeline.event(state.key, clock.update_index))
        epsilon = schedules.linear(hparams.epsilon, clock.env_steps)
        act = behaviour(factorisation, state.learner.params, epsilon)
        actor, trajectory, seen = collector.collect(key_rollout, state.actor, act)
        state, metrics = absorb(replace(state, actor=actor), trajectory, hparams, clock, key_learn)
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
        never = {name: jnp.full((), NEVER, jnp.int32) for name in WATCHED}
        return Tally(metrics=zeros, first_nonfinite=never)

    return TrainStep(init, train, learn, empty_tally, absorb)


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

    def first(name: str) -> Array:
        failed = jnp.where(jnp.isfinite(metrics[name][0]), NEVER, update_index)
        return jnp.minimum(tally.first_nonfinite[name], failed)

    return Tally(
        metrics=jax.tree.map(jnp.add, tally.metrics, metrics),
        first_nonfinite={name: first(name) for name in WATCHED},
    )


def _finite(metrics: Metrics) -> Array:
    return jnp.all(jnp.isfinite(jnp.stack([metrics[name][0] for name in WATCHED])))


def _init(
    collector: rollout.Collector, learner: learners.Learner, buffer: replay.Buffer, seed: Array
) -> TrainState:
    key = jax.random.key(seed)
    key_learner, key_actor = jax.random.split(stream(key, INIT, jnp.zeros((), jnp.int32)))
    return TrainState(
        key=key,
        active=jnp.ones((), bool),
        actor=collector.init(key_actor),
        learner=learner.init(key_learner),
        replay=buffer.init(),
    )


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
    """Adds the trajectory, then K times (sample, gradient step); during warm-up only adds."""
    ring = buffer.add(ring, trajectory, clock)
    clock = replace(clock, n_added=clock.n_added + timeline.n_envs)

    def step(
        k: Array, carried: tuple[learners.LearnerState, replay.BufferState]
    ) -> tuple[tuple[learners.LearnerState, replay.BufferState], Metrics]:
        state, ring = carried
        key_sample, key_loss = jax.random.split(jax.random.fold_in(key, k))
        batch = buffer.sample(ring, key_sample, clock)
        gradient_step = clock.gradient_step + k
        state, metrics, priority = learner.update(state, batch, hparams, gradient_step, key_loss)
        return (state, buffer.update(ring, batch, priority)), metrics

    def body(k: Array, carried: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
        learnt, metrics = step(k, carried[0])
        return learnt, jax.tree.map(jnp.add, carried[1], metrics)

    shapes = jax.eval_shape(step, jnp.zeros((), jnp.int32), (state, ring))[1]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    n_steps = jnp.where(clock.update_index < 0, 0, timeline.gradient_steps)
    (state, ring), metrics = jax.lax.fori_loop(0, n_steps, body, ((state, ring), nothing))
    return state, ring, metrics
