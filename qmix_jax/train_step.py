"""collect -> learn, for one member: one update, and a loop of updates.

An update has two pure halves, `begin` and `absorb`. A compiled collector is traced between them; an
environment that is stepped in Python runs between the same two, compiled apart. Warm-up is the same
loop at negative update indices, where the number of gradient steps is 0: one program, so the
environment is compiled once less.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax import learner as learners
from qmix_jax import replay, rollout
from qmix_jax.algorithms import base as algorithms
from qmix_jax.types import Array, Batch, Clock, HParams, Metrics, Trajectory, record

INIT, WARM_UP, TRAIN, EVAL = range(4)
"""Streams of a member's randomness: `fold_in(fold_in(key(seed), STREAM), index)`."""

NEVER = jnp.iinfo(jnp.int32).max


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
    """Metrics summed since the last row was written; `first_nonfinite` holds for each metric that
    `is_watched` the first update i32[] in which it was not finite, `NEVER` if there is none.
    """

    metrics: Metrics
    first_nonfinite: dict[str, Array]


@record
class UpdateStart:
    """What an update begins with: how agents explore, the keys of its two halves, its clock."""

    exploration: algorithms.Exploration
    key_rollout: Array
    key_learn: Array
    clock: Clock


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
    """The phases of an update and what they are composed of. Each method is a pure function; the
    only `jit` is the population's.

    Attributes:
      algorithm: acts and learns.
      collector: a `rollout` of environments, or its `OnlineCollector` where learning is online.
      buffer: where rollouts are stored.
      timeline: places updates in a run.
    """

    algorithm: algorithms.Algorithm
    collector: Any
    buffer: replay.Buffer
    timeline: Timeline

    def init(self, seed: Array) -> TrainState:
        """A fresh member; `seed` i32[]."""
        key = jax.random.key(seed)
        key_learner, key_actor = jax.random.split(stream(key, INIT, jnp.zeros((), jnp.int32)))
        return TrainState(
            key=key,
            active=jnp.ones((), bool),
            actor=self.collector.init(key_actor),
            learner=self.algorithm.learner.init(self.algorithm.init(key_learner)),
            replay=self.buffer.init(),
        )

    def begin(self, state: TrainState, hparams: HParams, update_index: Array) -> UpdateStart:
        """The first half of update `update_index` i32[]."""
        key_rollout, key_learn = jax.random.split(self.timeline.event(state.key, update_index))
        clock = self.timeline.clock(update_index)
        return UpdateStart(
            exploration=self.algorithm.exploration(hparams, clock),
            key_rollout=key_rollout,
            key_learn=key_learn,
            clock=clock,
        )

    def absorb(
        self,
        state: TrainState,
        trajectory: Trajectory,
        seen: Metrics,
        hparams: HParams,
        begun: UpdateStart,
    ) -> tuple[TrainState, Metrics]:
        """The second half: what was collected is stored and learnt from, and its metrics `seen` are
        joined; a member whose loss is not finite stands still.
        """
        learnt, ring, metrics = self.learn(
            state.learner, state.replay, trajectory, hparams, begun.clock, begun.key_learn
        )
        state = _unless_failed(replace(state, replay=ring), learnt, metrics)
        return state, {**seen, **metrics, **_named(begun.exploration)}

    def update(
        self, state: TrainState, hparams: HParams, update_index: Array
    ) -> tuple[TrainState, Metrics]:
        """One update: `begin`, collect, `absorb`; online learners learn while they collect."""
        begun = self.begin(state, hparams, update_index)
        if not self.algorithm.learner.online:
            behaviour = bind(self.algorithm, state.learner.params, begun.exploration)
            actor, trajectory, seen = self.collector.collect(
                begun.key_rollout, state.actor, behaviour
            )
            return self.absorb(replace(state, actor=actor), trajectory, seen, hparams, begun)
        actor, learnt, metrics = self.collector.collect(
            begun.key_rollout,
            state.actor,
            state.learner,
            lambda memory: bind(self.algorithm, memory.params, begun.exploration),
            partial(_learn_online, self.algorithm.learner, self.timeline, hparams, begun),
        )
        state = _unless_failed(replace(state, actor=actor), learnt, metrics)
        return state, {**metrics, **_named(begun.exploration)}

    def learn(
        self,
        state: learners.LearnerState,
        ring: replay.BufferState,
        trajectory: Trajectory,
        hparams: HParams,
        clock: Clock,
        key: Array,
    ) -> tuple[learners.LearnerState, replay.BufferState, Metrics]:
        """Prepares and stores a trajectory, then K times (sample, gradient step), 0 in warm-up. The
        trajectory may come from elsewhere.
        """
        learner, buffer, n_steps = (
            self.algorithm.learner,
            self.buffer,
            self.timeline.gradient_steps,
        )
        key_prepare = jax.random.fold_in(key, n_steps)
        state, trajectory = learner.prepare(state, trajectory, hparams, clock, key_prepare)
        ring = buffer.add(ring, trajectory, clock)
        clock = replace(clock, n_added=clock.n_added + self.timeline.n_envs)

        def step(
            k: Array, carried: tuple[learners.LearnerState, replay.BufferState]
        ) -> tuple[tuple[learners.LearnerState, replay.BufferState], Metrics]:
            state, ring = carried
            key_sample, key_loss = jax.random.split(jax.random.fold_in(key, k))
            batch = buffer.sample(ring, key_sample, clock)
            now = replace(clock, gradient_step=clock.gradient_step + k)
            state, metrics, priority = learner.update(state, batch, hparams, now, key_loss)
            return (state, buffer.update(ring, batch, priority)), metrics

        def body(k: Array, carried: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
            learnt, metrics = step(k, carried[0])
            return learnt, jax.tree.map(jnp.add, carried[1], metrics)

        shapes = jax.eval_shape(step, jnp.zeros((), jnp.int32), (state, ring))[1]
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        n_steps = jnp.where(clock.update_index < 0, 0, n_steps)
        (state, ring), metrics = jax.lax.fori_loop(0, n_steps, body, ((state, ring), nothing))
        return state, ring, metrics


class Loop(NamedTuple):
    """A loop of updates that sums their metrics.

    Attributes:
      update: `(state, hparams, update_index, *data) -> (state, metrics)`, as `TrainStep.update`.
    """

    update: Callable[..., tuple[TrainState, Metrics]]

    def traced_once(self) -> "Loop":
        """The same updates, traced once for all programs that contain them. They are inlined, so
        the programs are the same as without.
        """
        return Loop(jax.jit(self.update, inline=True))

    def train(
        self,
        state: TrainState,
        tally: Tally,
        hparams: HParams,
        first_update: Array,
        n_updates: Array,
    ) -> tuple[TrainState, Tally]:
        """`n_updates` i32[] updates from `first_update` i32[] on; those below 0 fill the replay."""

        def body(index: Array, carried: tuple[TrainState, Tally]) -> tuple[TrainState, Tally]:
            state, tally = carried
            update_index = first_update + index
            state, metrics = self.update(state, hparams, update_index)
            return state, add_up(tally, metrics, update_index)

        # A loop with a traced bound, not a scan: one program serves any number of updates.
        return jax.lax.fori_loop(0, n_updates, body, (state, tally))

    def empty_tally(self, state: TrainState, hparams: HParams, *data: Any) -> Tally:
        """A tally of zeros."""
        zero = jnp.zeros((), jnp.int32)
        metrics = jax.eval_shape(lambda *x: self.update(*x)[1], state, hparams, zero, *data)
        return Tally(
            metrics=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics),
            first_nonfinite={
                name: jnp.full((), NEVER, jnp.int32) for name in filter(is_watched, metrics)
            },
        )


def stream(key: Array, name: int | Array, index: Array) -> Array:
    """The key of one event: `name` is one of INIT, WARM_UP, TRAIN, EVAL; `index` i32[]."""
    return jax.random.fold_in(jax.random.fold_in(key, name), index)


def bind(
    algorithm: algorithms.Algorithm, params: Any, exploration: algorithms.Exploration
) -> rollout.Behaviour:
    """How an algorithm acts with fixed parameters and exploration."""

    def act(carry: Any, seen: Any, key: Array) -> tuple[Any, Array, dict[str, Any]]:
        return algorithm.act(params, carry, seen, exploration, key)

    accompany = algorithm.accompany
    return rollout.Behaviour(act, accompany and partial(accompany, params))


def play(algorithm: algorithms.Algorithm, params: Any) -> rollout.Behaviour:
    """How an algorithm acts when nothing is explored or learnt."""
    return bind(algorithm, params, algorithm.greedy)._replace(accompany=None)


def is_watched(name: str) -> bool:
    """Whether a member in which this metric is not finite is frozen."""
    return name.startswith("train/") and name.endswith(("loss", "grad_norm"))


def add_up(tally: Tally, metrics: Metrics, update_index: Array) -> Tally:
    """Adds one update's metrics and notes the first update that was not finite."""

    def first(name: str) -> Array:
        failed = jnp.where(jnp.isfinite(metrics[name][0]), NEVER, update_index)
        return jnp.minimum(tally.first_nonfinite[name], failed)

    return Tally(
        metrics=jax.tree.map(jnp.add, tally.metrics, metrics),
        first_nonfinite={name: first(name) for name in tally.first_nonfinite},
    )


def _named(exploration: algorithms.Exploration) -> Metrics:
    return {f"train/{name}": (value, jnp.ones(())) for name, value in exploration.items()}


def _unless_failed(
    state: TrainState, learnt: learners.LearnerState, metrics: Metrics
) -> TrainState:
    """The state with what was learnt; a member whose loss is not finite stays as it was."""
    watched = [metrics[name][0] for name in filter(is_watched, metrics)]
    active = state.active & jnp.all(jnp.isfinite(jnp.stack(watched)))
    kept = jax.tree.map(partial(jnp.where, active), learnt, state.learner)
    return replace(state, active=active, learner=kept)


def _learn_online(
    learner: learners.Learner,
    timeline: Timeline,
    hparams: HParams,
    begun: UpdateStart,
    state: learners.LearnerState,
    trajectory: Trajectory,
    t: Array,
) -> tuple[learners.LearnerState, Metrics]:
    """Learns from one step of all environments, one after the other; `trajectory` [1, B]."""
    n_envs = timeline.n_envs

    def one(
        state: learners.LearnerState, x: tuple[Array, Trajectory]
    ) -> tuple[learners.LearnerState, Metrics]:
        b, single = x
        done = t * n_envs + b
        clock = replace(
            begun.clock,
            gradient_step=begun.clock.gradient_step + done,
            env_steps=begun.clock.env_steps + done,
        )
        batch = Batch(trajectory=single, weight=jnp.ones((1,)), index=jnp.zeros((1,), jnp.int32))
        key = jax.random.fold_in(begun.key_learn, done)
        state, metrics, _ = learner.update(state, batch, hparams, clock, key)
        return state, metrics

    # The axis of environments first, and kept as B = 1.
    start = trajectory.start
    steps = jax.tree.map(
        lambda x: jnp.moveaxis(x, 1, 0)[:, :, None], replace(trajectory, start=None)
    )
    starts = jax.tree.map(lambda x: x[:, None], start)
    singles = replace(steps, start=starts)
    state, metrics = jax.lax.scan(one, state, (jnp.arange(n_envs), singles))
    return state, jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)
