"""Train step of one member, collect then learn, and a loop of train steps.

An update has two pure halves, `begin` and `absorb`. A compiled collector is traced between them; an
environment that is stepped in Python runs between the same two, compiled separately. The warm-up is
the same loop at negative update indices, without gradient steps, so one program serves both.
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
"""Random streams of a member: `fold_in(fold_in(key(seed), STREAM), index)`."""

NEVER = jnp.iinfo(jnp.int32).max
"""`first_nonfinite` of a metric that was always finite."""


@record
class TrainState:
    """State of one member.

    Attributes:
      key: constant.
      active: bool[], False once a watched metric was not finite (`is_watched`); the learner is
        frozen from then on.
      actor: state of the collector.
      learner: parameters, target parameters, optimiser state.
      replay: state of the buffer.
    """

    key: Array
    active: Array
    actor: Any
    learner: learners.LearnerState
    replay: replay.BufferState


@record
class Tally:
    """Metrics summed since the last row was written.

    Attributes:
      metrics: name -> (sum f32[], count f32[]).
      first_nonfinite: watched metric -> first update i32[] in which it was not finite, or `NEVER`.
    """

    metrics: Metrics
    first_nonfinite: dict[str, Array]


@record
class UpdateStart:
    """Exploration, keys and clock of one update."""

    exploration: algorithms.Exploration
    key_rollout: Array
    key_learn: Array
    clock: Clock


class Timeline(NamedTuple):
    """Maps update indices to clocks and keys; static.

    Attributes:
      n_envs: sequences per update.
      window: steps per sequence.
      gradient_steps: K, gradient steps per update.
      warm_up: rollouts before the first update.
    """

    n_envs: int
    window: int
    gradient_steps: int
    warm_up: int

    def clock(self, update_index: Array) -> Clock:
        """Returns the clock at the start of update `update_index` i32[], negative in warm-up."""
        collects = update_index + self.warm_up
        return Clock(
            update_index=update_index,
            gradient_step=update_index * self.gradient_steps,
            env_steps=collects.astype(jnp.float32) * (self.n_envs * self.window),
            n_added=collects * self.n_envs,
        )

    def update_key(self, key: Array, update_index: Array) -> Array:
        """Returns the key of an update. The warm-up has its own stream, so that its length does not
        change later draws.
        """
        is_warm_up = update_index < 0
        index = jnp.where(is_warm_up, update_index + self.warm_up, update_index)
        return stream(key, jnp.where(is_warm_up, WARM_UP, TRAIN), index)


class TrainStep(NamedTuple):
    """The phases of an update, as pure functions; the only `jit` is in `population`.

    Attributes:
      algorithm: acts and learns.
      collector: a `Collector`, or an `OnlineCollector` for online learners.
      buffer: the replay.
      timeline: clocks and keys of updates.
    """

    algorithm: algorithms.Algorithm
    collector: Any
    buffer: replay.Buffer
    timeline: Timeline

    def init(self, seed: Array) -> TrainState:
        """Returns the initial state of a member; `seed` i32[]."""
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
        """First half of update `update_index` i32[]: exploration, keys and clock."""
        key_rollout, key_learn = jax.random.split(self.timeline.update_key(state.key, update_index))
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
        rollout_metrics: Metrics,
        hparams: HParams,
        start: UpdateStart,
    ) -> tuple[TrainState, Metrics]:
        """Second half of an update: stores the trajectory and learns.

        Freezes the learner of a member whose loss is not finite.
        """
        learner, ring, metrics = self.learn(
            state.learner, state.replay, trajectory, hparams, start.clock, start.key_learn
        )
        state = _freeze_if_nonfinite(replace(state, replay=ring), learner, metrics)
        return state, {**rollout_metrics, **metrics, **_exploration_metrics(start.exploration)}

    def update(
        self, state: TrainState, hparams: HParams, update_index: Array
    ) -> tuple[TrainState, Metrics]:
        """One update: `begin`, collect, `absorb`; online learners learn while they collect."""
        start = self.begin(state, hparams, update_index)
        if not self.algorithm.learner.online:
            policy = bind_policy(self.algorithm, state.learner.params, start.exploration)
            actor, trajectory, metrics = self.collector.collect(
                start.key_rollout, state.actor, policy
            )
            return self.absorb(replace(state, actor=actor), trajectory, metrics, hparams, start)
        actor, learner, metrics = self.collector.collect(
            start.key_rollout,
            state.actor,
            state.learner,
            lambda learner: bind_policy(self.algorithm, learner.params, start.exploration),
            partial(_learn_online, self.algorithm.learner, self.timeline, hparams, start),
        )
        state = _freeze_if_nonfinite(replace(state, actor=actor), learner, metrics)
        return state, {**metrics, **_exploration_metrics(start.exploration)}

    def learn(
        self,
        state: learners.LearnerState,
        ring: replay.BufferState,
        trajectory: Trajectory,
        hparams: HParams,
        clock: Clock,
        key: Array,
    ) -> tuple[learners.LearnerState, replay.BufferState, Metrics]:
        """Prepares and stores a trajectory, then samples and takes a gradient step K times (not in
        warm-up).
        """
        learner, buffer = self.algorithm.learner, self.buffer
        n_steps = self.timeline.gradient_steps
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
            states, metrics = step(k, carried[0])
            return states, jax.tree.map(jnp.add, carried[1], metrics)

        shapes = jax.eval_shape(step, jnp.zeros((), jnp.int32), (state, ring))[1]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        n_steps = jnp.where(clock.update_index < 0, 0, n_steps)
        (state, ring), metrics = jax.lax.fori_loop(0, n_steps, body, ((state, ring), zeros))
        return state, ring, metrics


class Loop(NamedTuple):
    """A loop of updates that sums their metrics.

    Attributes:
      update: `(state, hparams, update_index, *data) -> (state, metrics)`, as `TrainStep.update`.
    """

    update: Callable[..., tuple[TrainState, Metrics]]

    def traced_once(self) -> "Loop":
        """Returns the same loop, whose update is traced once for all programs that contain it. It
        is inlined, so the programs do not change.
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
        """Runs `n_updates` i32[] updates, the first being `first_update` i32[]."""

        def body(index: Array, carried: tuple[TrainState, Tally]) -> tuple[TrainState, Tally]:
            state, tally = carried
            update_index = first_update + index
            state, metrics = self.update(state, hparams, update_index)
            return state, accumulate(tally, metrics, update_index)

        # A loop with a traced bound, not a scan: one program serves any number of updates.
        return jax.lax.fori_loop(0, n_updates, body, (state, tally))

    def empty_tally(self, state: TrainState, hparams: HParams, *data: Any) -> Tally:
        """Returns a tally of zeros."""
        zero = jnp.zeros((), jnp.int32)
        metrics = jax.eval_shape(lambda *x: self.update(*x)[1], state, hparams, zero, *data)
        return Tally(
            metrics=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics),
            first_nonfinite={
                name: jnp.full((), NEVER, jnp.int32) for name in filter(is_watched, metrics)
            },
        )


def stream(key: Array, name: int | Array, index: Array) -> Array:
    """Returns entry `index` i32[] of a random stream: INIT, WARM_UP, TRAIN or EVAL."""
    return jax.random.fold_in(jax.random.fold_in(key, name), index)


def bind_policy(
    algorithm: algorithms.Algorithm, params: Any, exploration: algorithms.Exploration
) -> rollout.BoundPolicy:
    """Binds an algorithm's `act` to parameters and exploration."""

    def act(carry: Any, observed: Any, key: Array) -> tuple[Any, Array, dict[str, Any]]:
        return algorithm.act(params, carry, observed, exploration, key)

    accompany = algorithm.accompany
    return rollout.BoundPolicy(act, accompany and partial(accompany, params))


def greedy_policy(algorithm: algorithms.Algorithm, params: Any) -> rollout.BoundPolicy:
    """Returns the policy of evaluation and deployment: no exploration, no learning carry."""
    return bind_policy(algorithm, params, algorithm.greedy)._replace(accompany=None)


def is_watched(name: str) -> bool:
    """Whether a member is frozen when this metric is not finite."""
    return name.startswith("train/") and name.endswith(("loss", "grad_norm"))


def accumulate(tally: Tally, metrics: Metrics, update_index: Array) -> Tally:
    """Adds the metrics of one update and updates `first_nonfinite`."""

    def first(name: str) -> Array:
        failed = jnp.where(jnp.isfinite(metrics[name][0]), NEVER, update_index)
        return jnp.minimum(tally.first_nonfinite[name], failed)

    return Tally(
        metrics=jax.tree.map(jnp.add, tally.metrics, metrics),
        first_nonfinite={name: first(name) for name in tally.first_nonfinite},
    )


def _exploration_metrics(exploration: algorithms.Exploration) -> Metrics:
    return {f"train/{name}": (value, jnp.ones(())) for name, value in exploration.items()}


def _freeze_if_nonfinite(
    state: TrainState, learner: learners.LearnerState, metrics: Metrics
) -> TrainState:
    """The state with the new learner, or with the old one if a watched metric is not finite."""
    watched = [metrics[name][0] for name in filter(is_watched, metrics)]
    active = state.active & jnp.all(jnp.isfinite(jnp.stack(watched)))
    learner = jax.tree.map(partial(jnp.where, active), learner, state.learner)
    return replace(state, active=active, learner=learner)


def _learn_online(
    learner: learners.Learner,
    timeline: Timeline,
    hparams: HParams,
    start: UpdateStart,
    state: learners.LearnerState,
    trajectory: Trajectory,
    t: Array,
) -> tuple[learners.LearnerState, Metrics]:
    """Learns from step t of each environment in order; `trajectory` [1, B]."""
    n_envs = timeline.n_envs

    def learn(
        state: learners.LearnerState, x: tuple[Array, Trajectory]
    ) -> tuple[learners.LearnerState, Metrics]:
        b, transition = x
        offset = t * n_envs + b
        clock = replace(
            start.clock,
            gradient_step=start.clock.gradient_step + offset,
            env_steps=start.clock.env_steps + offset,
        )
        weight, index = jnp.ones((1,)), jnp.zeros((1,), jnp.int32)
        batch = Batch(trajectory=transition, weight=weight, index=index)
        key = jax.random.fold_in(start.key_learn, offset)
        state, metrics, _ = learner.update(state, batch, hparams, clock, key)
        return state, metrics

    # [1, B, ...] -> [B, 1, 1, ...]: the scan runs over environments, each with B = 1.
    transitions = jax.tree.map(
        lambda x: jnp.moveaxis(x, 1, 0)[:, :, None], replace(trajectory, start=None)
    )
    starts = jax.tree.map(lambda x: x[:, None], trajectory.start)
    transitions = replace(transitions, start=starts)
    state, metrics = jax.lax.scan(learn, state, (jnp.arange(n_envs), transitions))
    return state, jax.tree.map(lambda x: jnp.sum(x, axis=0), metrics)
