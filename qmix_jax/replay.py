"""Sequence replay: a ring buffer of sequences on the device, stored in small dtypes.

The ring is `[capacity, T, ...]`; a minibatch is gathered, decoded and transposed to `[T, B, ...]`
when sampled. Write positions come from the unbatched `Clock`, so `add` is one in-place slice
update, at the same position for every member. Buffers differ in how they sample: sequences of all
rollouts, uniformly or by priority, single transitions, or each sequence of the last rollout once.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from qmix_jax import config
from qmix_jax.core import schedules
from qmix_jax.types import (
    Actions,
    Array,
    Batch,
    Clock,
    EnvSpec,
    Schedule,
    SequenceStart,
    Trajectory,
    no_action,
)

BufferState = dict[str, Any]
"""Field of `Trajectory` -> its ring `[capacity, T, ...]`, `start` (a tree) without T; and the
buffer's bookkeeping `[capacity]`.
"""

BOOKKEEPING = {
    "uniform": {},
    "transitions": {},
    "prioritised": {"priority": jnp.float32},
    "on_policy": {"used": jnp.bool_},
}
"""Kind of buffer -> the scalars it stores per sequence, name -> dtype."""

_BOOKKEEPING_FIELDS = frozenset(name for fields in BOOKKEEPING.values() for name in fields)
_WITH_SUCCESSOR = ("obs", "state", "avail_actions", "reset")
"""Fields with T + 1 entries."""

_MIN_PRIORITY = 1e-6
"""Added to every error, so that sequences without error can still be sampled."""


class StorageDtypes(NamedTuple):
    """Storage types of observations and states."""

    obs: config.StorageDtype = "float32"
    state: config.StorageDtype = "float32"


class Codec(NamedTuple):
    """Storage format of a field: `encode` before storing, `decode` the sampled minibatch."""

    dtype: Any
    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]


class Buffer(NamedTuple):
    """Replay as pure functions over a state that the caller carries.

    Attributes:
      init: `() -> state`.
      add: `(state, Trajectory[T, B], Clock) -> state`; B must divide the capacity.
      sample: `(state, key, Clock) -> Batch` of distinct sequences or transitions.
      update: `(state, Batch, priority f32[B]) -> state`.
    """

    init: Callable[[], BufferState]
    add: Callable[[BufferState, Trajectory, Clock], BufferState]
    sample: Callable[[BufferState, Array, Clock], Batch]
    update: Callable[[BufferState, Batch, Array], BufferState]


def _no_sample(state: BufferState, key: Array, clock: Clock) -> Batch:
    raise AssertionError("online learners do not sample")


NO_REPLAY = Buffer(
    init=dict,
    add=lambda state, trajectory, clock: state,
    sample=_no_sample,
    update=lambda state, batch, priority: state,
)
"""The buffer of online learners, which store nothing."""


def float_codec(dtype: config.StorageDtype, bounds: tuple[float, float] | None = None) -> Codec:
    """Stores floats in 32 bits, in 16 as raw bits (XLA on CPUs would convert a bfloat16 buffer), or
    in 255 steps between `bounds`, of which the ends and the middle are exact.
    """
    if dtype == "float32":
        return Codec(jnp.float32, lambda x: x, lambda x: x)
    if dtype == "uint8":
        assert bounds is not None, "see check_storage"
        return _affine_codec(*bounds)
    small = jnp.dtype(dtype)
    return Codec(
        jnp.uint16,
        lambda x: jax.lax.bitcast_convert_type(x.astype(small), jnp.uint16),
        lambda x: jax.lax.bitcast_convert_type(x, small).astype(jnp.float32),
    )


def _affine_codec(low: float, high: float) -> Codec:
    middle, half = (high + low) / 2.0, (high - low) / 2.0

    def encode(x: Array) -> Array:
        share = jnp.clip((x - middle) / half, -1.0, 1.0)
        return (jnp.round(127.0 * share) + 127.0).astype(jnp.uint8)

    def decode(x: Array) -> Array:
        return middle + half * ((x.astype(jnp.float32) - 127.0) / 127.0)

    return Codec(jnp.uint8, encode, decode)


def action_codec(actions: Actions) -> Codec:
    """Stores actions in the smallest type that holds them."""
    small, dtype = actions.stored_dtype, actions.dtype
    return Codec(small, lambda x: x.astype(small), lambda x: x.astype(dtype))


def check_storage(spec: EnvSpec, dtypes: StorageDtypes) -> None:
    """Raises: ConfigError for 8-bit storage of values without known bounds."""
    for field, bounds in (("obs", spec.obs_bounds), ("state", spec.state_bounds)):
        if getattr(dtypes, field) == "uint8" and bounds is None:
            raise config.ConfigError(
                f"replay: replay.{field}_dtype=uint8 needs bounds, and {spec.name} has no "
                f"{field}_bounds; use float16"
            )


def _codecs(spec: EnvSpec, dtypes: StorageDtypes) -> dict[str, Codec]:
    plain = float_codec("float32")
    flag = Codec(jnp.bool_, lambda x: x, lambda x: x)
    return {
        "obs": float_codec(dtypes.obs, spec.obs_bounds),
        "state": float_codec(dtypes.state, spec.state_bounds),
        "avail_actions": flag,
        "reset": flag,
        "actions": action_codec(spec.actions),
        "reward": plain,
        "terminated": flag,
        "valid": flag,
    }


class StoredFields(NamedTuple):
    """Length and optional fields of a stored sequence.

    Attributes:
      length: T, steps per sequence.
      reward_per_agent: store each agent's reward instead of the team's.
      behaviour: name -> shape of [B, ...] for B = 1, added by acting and `prepare` at each step.
      mean_action: store mean actions.
      carry: shapes of one sequence's carry if sequences continue episodes, else None.
    """

    length: int
    reward_per_agent: bool = False
    behaviour: Any = {}  # noqa: RUF012
    mean_action: bool = False
    carry: Any = None


def sequence_shapes(
    spec: EnvSpec, stored: StoredFields, dtypes: StorageDtypes, kind: str = "uniform"
) -> BufferState:
    """Returns the shapes of one stored sequence, so that its bytes are known in advance.

    Args:
      spec: sizes.
      stored: length and fields.
      dtypes: storage types of floats.
      kind: of the buffer, a key of `BOOKKEEPING`.
    """
    n, a, length = spec.n_agents, spec.actions.width, stored.length
    shapes = {
        "obs": (length + 1, n, *spec.obs_shape),
        "state": (length + 1, spec.state_size),
        "avail_actions": (length + 1, n, a),
        "reset": (length + 1,),
        "actions": (length, *spec.actions.shape),
        "reward": (length, n) if stored.reward_per_agent else (length,),
        "terminated": (length,),
        "valid": (length,),
    }
    codecs = _codecs(spec, dtypes)
    struct = jax.ShapeDtypeStruct
    fields: BufferState = {
        name: struct(shape, codecs[name].dtype) for name, shape in shapes.items()
    }
    fields |= {name: struct((), dtype) for name, dtype in BOOKKEEPING[kind].items()}
    if stored.behaviour:
        fields["behaviour"] = jax.tree.map(
            lambda x: struct((length, *x.shape[1:]), x.dtype), stored.behaviour
        )
    mean_action = struct((length, n, a), jnp.float32) if stored.mean_action else None
    if mean_action is not None:
        fields["mean_action"] = mean_action
    if stored.carry is not None:
        previous = struct(spec.actions.shape, codecs["actions"].dtype)
        fields["start"] = SequenceStart(
            carry=stored.carry,
            prev_actions=previous,  # pyright: ignore
            mean_action=mean_action and struct((n, a), jnp.float32),  # pyright: ignore
        )
    return fields


def sequence_bytes(shapes: BufferState) -> int:
    """Returns the bytes of one stored sequence."""
    return sum(field.size * field.dtype.itemsize for field in jax.tree.leaves(shapes))


def _sample_distinct(key: Array, n: Array, count: int) -> Array:
    """Samples `count` distinct integers in [0, n), every subset equally likely (Bentley & Floyd
    1987): draw i is from [0, n - count + i], replaced by the largest of these if chosen before.
    """
    order = jnp.arange(count)
    last = n - count + order
    drawn = jax.random.randint(key, (count,), 0, last + 1)
    # Chosen before: drawn before, or the substitute of an earlier draw that was. The chains of
    # substitutes are followed by doubling, since a loop over the draws is slow on any device.
    taken = jnp.any((drawn[:, None] == drawn) & (order[:, None] > order), axis=1)
    substitute_of = jnp.where(drawn >= n - count, drawn - (n - count), order)
    for _ in range(count.bit_length()):
        taken |= taken[substitute_of]
        substitute_of = substitute_of[substitute_of]
    return jnp.where(taken, last, drawn)


class Ring(NamedTuple):
    """Ring buffer of encoded sequences; rows are `[B, T, ...]`.

    Attributes:
      spec: sizes.
      shapes: of one sequence, from `sequence_shapes`.
      dtypes: storage types of floats.
      capacity: in sequences.
    """

    spec: EnvSpec
    shapes: BufferState
    dtypes: StorageDtypes
    capacity: int

    @property
    def codecs(self) -> dict[str, Codec]:
        """Storage formats of the fields that every trajectory has."""
        return _codecs(self.spec, self.dtypes)

    def init(self) -> BufferState:
        """Returns an empty ring."""
        return jax.tree.map(lambda x: jnp.zeros((self.capacity, *x.shape), x.dtype), self.shapes)

    def n_stored(self, clock: Clock) -> Array:
        """Returns i32[], the number of stored sequences."""
        return jnp.minimum(clock.n_added, self.capacity)

    def encode(self, trajectory: Trajectory) -> BufferState:
        """Encodes Trajectory[T, B] into rows."""
        chex.assert_is_divisible(self.capacity, trajectory.reward.shape[1])
        rows: BufferState = {
            name: codec.encode(jnp.swapaxes(getattr(trajectory, name), 0, 1))
            for name, codec in self.codecs.items()
        }
        for name in ("behaviour", "mean_action"):
            if name in self.shapes:
                rows[name] = _swapped(getattr(trajectory, name))
        if trajectory.start is not None:
            rows["start"] = jax.tree.map(
                lambda x, like: x.astype(like.dtype), trajectory.start, self.shapes["start"]
            )
        return rows

    def decode(self, rows: BufferState) -> Trajectory:
        """Decodes rows into Trajectory[T, B]."""
        codecs = self.codecs
        fields: BufferState = {
            name: _swapped(codec.decode(rows[name])) for name, codec in codecs.items()
        }
        fields |= {
            name: _swapped(rows[name]) for name in ("behaviour", "mean_action") if name in rows
        }
        if "start" in rows:
            previous = codecs["actions"].decode(rows["start"].prev_actions)
            fields["start"] = replace(rows["start"], prev_actions=previous)
        return Trajectory(**fields)

    def write(self, state: BufferState, rows: BufferState, clock: Clock) -> BufferState:
        """Writes rows over the oldest sequences."""
        first = clock.n_added % self.capacity
        return jax.tree.map(
            lambda ring, x: jax.lax.dynamic_update_slice_in_dim(ring, x, first, axis=0), state, rows
        )

    def add(self, state: BufferState, trajectory: Trajectory, clock: Clock) -> BufferState:
        """`Buffer.add` of buffers without bookkeeping."""
        return self.write(state, self.encode(trajectory), clock)

    def read(self, state: BufferState, index: Array) -> Trajectory:
        """Reads the sequences `index` i32[B] as Trajectory[T, B]."""
        return self.decode(jax.tree.map(lambda ring: ring[index], state))

    def read_steps(self, state: BufferState, index: Array, step: Array) -> Trajectory:
        """Reads step `step` i32[B] of each sequence `index` i32[B] as Trajectory[1, B], for agents
        without memory; `start` has the previous actions.
        """

        def cut(name: str, ring: Any) -> Any:
            steps = step[:, None] + jnp.arange(2 if name in _WITH_SUCCESSOR else 1)
            return jax.tree.map(lambda x: x[index[:, None], steps], ring)

        fields = [name for name in state if name not in ("start", *_BOOKKEEPING_FIELDS)]
        trajectory = self.decode({name: cut(name, state[name]) for name in fields})
        start = state.get("start")

        def previous(name: str, none: Array, at_start: Array | None) -> Array:
            """The entry before `step`: of the sequence, or of its start."""
            earlier = state[name][index, jnp.maximum(step - 1, 0)]
            first = none if at_start is None else at_start[index]
            return _where(step == 0, jnp.broadcast_to(first, earlier.shape), earlier)

        none = no_action(state["actions"][:1, 0])
        prev_actions = previous("actions", none, start and start.prev_actions)
        mean_action = None
        if "mean_action" in state:
            mean_action = previous("mean_action", jnp.zeros(()), start and start.mean_action)
        step_start = SequenceStart(
            carry={"act": (), "learn": ()},
            prev_actions=self.codecs["actions"].decode(prev_actions),
            mean_action=mean_action,
        )
        return replace(trajectory, start=step_start)


def make_uniform(ring: Ring, batch: int) -> Buffer:
    """Samples subsets of `batch` stored sequences uniformly; at least `batch` must be stored."""

    def sample(state: BufferState, key: Array, clock: Clock) -> Batch:
        index = _sample_distinct(key, ring.n_stored(clock), batch)
        return _unweighted(ring.read(state, index), index)

    return Buffer(ring.init, ring.add, sample, _keep_state)


def make_transitions(ring: Ring, batch: int, length: int) -> Buffer:
    """Samples distinct transitions uniformly, invalid ones included, which losses ignore.

    Args:
      ring: storage; at least `batch` steps must be stored.
      batch: B.
      length: T, steps per stored sequence.
    """

    def sample(state: BufferState, key: Array, clock: Clock) -> Batch:
        drawn = _sample_distinct(key, ring.n_stored(clock) * length, batch)
        index, step = jnp.divmod(drawn, length)
        return _unweighted(ring.read_steps(state, index, step), index)

    return Buffer(ring.init, ring.add, sample, _keep_state)


def make_prioritised(ring: Ring, batch: int, exponent: float, correction: Schedule) -> Buffer:
    """Samples sequences with large errors more often and gives them smaller weights.

        P(i) = p_i^exponent / sum_j p_j^exponent;   w_i = P(i)^-c / max_j P(j)^-c over the batch

    Priorities come from the last loss; a new sequence has the largest stored one.

    Args:
      ring: storage; at least `batch` sequences must be stored.
      batch: B.
      exponent: 0 samples uniformly.
      correction: c over env steps; 1 corrects the bias fully, 0 not at all.
    Reference: Schaul et al. 2016, section 3 (proportional); Kapturowski et al. 2019 for sequences.
    Deviation: samples without replacement, with the weights of sampling with replacement (nearly
    equal if a batch holds a small share of all priorities); the priority of a sequence is its
    largest error (their eta = 1).
    """

    def add(state: BufferState, trajectory: Trajectory, clock: Clock) -> BufferState:
        rows, highest = ring.encode(trajectory), jnp.max(state["priority"])
        newest = jnp.where(clock.n_added > 0, highest, 1.0)
        rows["priority"] = jnp.broadcast_to(newest, rows["reward"].shape[:1])
        return ring.write(state, rows, clock)

    def sample(state: BufferState, key: Array, clock: Clock) -> Batch:
        priority = state["priority"]
        is_stored = jnp.arange(len(priority)) < ring.n_stored(clock)
        log_weight = jnp.where(is_stored, exponent * jnp.log(priority), -jnp.inf)
        index = _sample_weighted(key, log_weight, batch)
        drawn = log_weight[index]
        strength = schedules.linear(correction, clock.env_steps)
        weight = jnp.exp(strength * (jnp.min(drawn) - drawn))
        return Batch(trajectory=ring.read(state, index), weight=weight, index=index)

    def update(state: BufferState, batch: Batch, priority: Array) -> BufferState:
        priorities = state["priority"].at[batch.index].set(priority + _MIN_PRIORITY)
        return {**state, "priority": priorities}

    return Buffer(ring.init, add, sample, update)


def make_on_policy(ring: Ring, batch: int) -> Buffer:
    """Samples every sequence of the last rollout once per epoch, each epoch in a new order.

    A sample is drawn uniformly from the sequences that the epoch has not used, which `update`
    marks: the distribution of a slice of a permutation, but no key outlives its gradient step.

    Args:
      ring: storage, whose capacity is the rollout's B.
      batch: sequences per minibatch, a divisor of the rollout's B.
    """

    def add(state: BufferState, trajectory: Trajectory, clock: Clock) -> BufferState:
        chex.assert_shape(state["used"], trajectory.reward.shape[1:])
        rows = {**ring.encode(trajectory), "used": jnp.zeros_like(state["used"])}
        return ring.write(state, rows, clock)

    def sample(state: BufferState, key: Array, clock: Clock) -> Batch:
        del clock
        index = _sample_weighted(key, jnp.where(state["used"], -jnp.inf, 0.0), batch)
        return _unweighted(ring.read(state, index), index)

    def update(state: BufferState, batch: Batch, priority: Array) -> BufferState:
        del priority
        used = state["used"].at[batch.index].set(True)
        return {**state, "used": used & ~jnp.all(used)}

    return Buffer(ring.init, add, sample, update)


def _swapped(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


def _where(condition: Array, on_true: Array, on_false: Array) -> Array:
    """`where` with condition bool[B] over arrays [B, ...]."""
    return jnp.where(jnp.expand_dims(condition, range(1, on_true.ndim)), on_true, on_false)


def _unweighted(trajectory: Trajectory, index: Array) -> Batch:
    return Batch(trajectory=trajectory, weight=jnp.ones(index.shape), index=index)


def _keep_state(state: BufferState, batch: Batch, priority: Array) -> BufferState:
    del batch, priority
    return state


def _sample_weighted(key: Array, log_weight: Array, count: int) -> Array:
    """Samples `count` indices without replacement, with probabilities proportional to
    `exp(log_weight)` f32[capacity]: the Gumbel top-k trick (Kool et al. 2019).
    """
    return jax.lax.top_k(log_weight + jax.random.gumbel(key, log_weight.shape), count)[1]
