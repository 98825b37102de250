"""Sequence replay: a ring of whole sequences on the device, in exact small dtypes.

The ring is `[capacity, T, ...]`; a minibatch is gathered, decoded and transposed to `[T, B, ...]`
once, on the way out. Everything that positions the ring comes from the unbatched `Clock`, so `add`
is one in-place slice update, for every member at the same place. Buffers differ in what they draw:
sequences of all rollouts, uniformly or by priority, or each sequence of the last rollout in turn.
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
"""Field of `Trajectory` -> its ring `[capacity, T, ...]`, `start` (a tree) without T; and what a
buffer notes of each sequence, `[capacity]`.
"""

NOTES = {
    "uniform": {},
    "transitions": {},
    "prioritised": {"priority": jnp.float32},
    "on_policy": {"used": jnp.bool_},
}
"""Kind of buffer -> what it notes of each sequence."""

_NOTED = frozenset(name for notes in NOTES.values() for name in notes)
_WITH_SUCCESSOR = ("obs", "state", "avail_actions", "reset")
"""Fields with T + 1 entries."""

_LEAST_PRIORITY = 1e-6
"""Added to every error, so that a sequence without any can still be drawn."""


class StorageDtypes(NamedTuple):
    """How observations and states are kept."""

    obs: config.StorageDtype = "float32"
    state: config.StorageDtype = "float32"


class Codec(NamedTuple):
    """How a field is kept: `encode` before storing, `decode` on the sampled minibatch only."""

    dtype: Any
    encode: Callable[[Array], Array]
    decode: Callable[[Array], Array]


class Buffer(NamedTuple):
    """Replay as pure functions over a state that the caller carries.

    Attributes:
      init: `() -> state`.
      add: `(state, Trajectory[T, B], Clock) -> state`; B must divide the capacity.
      sample: `(state, key, Clock) -> Batch` of different sequences.
      update: `(state, Batch, priority f32[B]) -> state`.
    """

    init: Callable[[], BufferState]
    add: Callable[[BufferState, Trajectory, Clock], BufferState]
    sample: Callable[[BufferState, Array, Clock], Batch]
    update: Callable[[BufferState, Batch, Array], BufferState]


def _no_sample(state: BufferState, key: Array, clock: Clock) -> Batch:
    raise AssertionError("online learners sample nothing")


NOTHING = Buffer(
    init=dict,
    add=lambda state, trajectory, clock: state,
    sample=_no_sample,
    update=lambda state, batch, priority: state,
)
"""The buffer of online learners, which store nothing."""


def float_codec(code: config.StorageDtype, bounds: tuple[float, float] | None = None) -> Codec:
    """Keeps floats in 32 bits, in 16 as raw bits (XLA on CPUs converts a whole bfloat16 buffer), or
    in 255 steps between `bounds`, of which the ends and the middle are exact.
    """
    if code == "float32":
        return Codec(jnp.float32, lambda x: x, lambda x: x)
    if code == "uint8":
        assert bounds is not None, "check_codes comes first"
        return _affine_codec(*bounds)
    small = jnp.dtype(code)
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
    """Keeps actions in the smallest type that holds them."""
    small, dtype = actions.stored_dtype, actions.dtype
    return Codec(small, lambda x: x.astype(small), lambda x: x.astype(dtype))


def check_codes(spec: EnvSpec, codes: StorageDtypes) -> None:
    """Raises: ConfigError if 8 bits are asked for values whose range is not known."""
    for field, bounds in (("obs", spec.obs_bounds), ("state", spec.state_bounds)):
        if getattr(codes, field) == "uint8" and bounds is None:
            raise config.ConfigError(
                f"replay: replay.{field}_dtype=uint8 needs values of known range, and {spec.name} "
                "states none; use float16"
            )


def _codecs(spec: EnvSpec, codes: StorageDtypes) -> dict[str, Codec]:
    plain = float_codec("float32")
    flag = Codec(jnp.bool_, lambda x: x, lambda x: x)
    return {
        "obs": float_codec(codes.obs, spec.obs_bounds),
        "state": float_codec(codes.state, spec.state_bounds),
        "avail_actions": flag,
        "reset": flag,
        "actions": action_codec(spec.actions),
        "reward": plain,
        "terminated": flag,
        "valid": flag,
    }


class StoredFields(NamedTuple):
    """What a stored sequence holds besides the fields that every algorithm learns from.

    Attributes:
      length: T, steps per sequence.
      own_reward: rewards are each agent's own.
      behaviour: name -> shape of [B, ...] for B = 1, what acting and `prepare` add at each step.
      mean_action: mean actions are stored.
      carry: shapes of one sequence's carry, where sequences continue episodes; else None.
    """

    length: int
    own_reward: bool = False
    behaviour: Any = {}  # noqa: RUF012
    mean_action: bool = False
    carry: Any = None


def sequence_shapes(
    spec: EnvSpec, extent: StoredFields, codes: StorageDtypes, kind: str = "uniform"
) -> BufferState:
    """The fields of one stored sequence: its bytes are known before anything runs.

    Args:
      spec: sizes.  extent: what is stored.  codes: how floats are kept.
      kind: of the buffer, one of `NOTES`.
    """
    n, a, length = spec.n_agents, spec.actions.width, extent.length
    shapes = {
        "obs": (length + 1, n, *spec.obs_shape),
        "state": (length + 1, spec.state_size),
        "avail_actions": (length + 1, n, a),
        "reset": (length + 1,),
        "actions": (length, *spec.actions.shape),
        "reward": (length, n) if extent.own_reward else (length,),
        "terminated": (length,),
        "valid": (length,),
    }
    codecs = _codecs(spec, codes)
    of = jax.ShapeDtypeStruct
    fields: BufferState = {name: of(shape, codecs[name].dtype) for name, shape in shapes.items()}
    fields |= {name: of((), dtype) for name, dtype in NOTES[kind].items()}
    if extent.behaviour:
        fields["behaviour"] = jax.tree.map(
            lambda x: of((length, *x.shape[1:]), x.dtype), extent.behaviour
        )
    mean_action = of((length, n, a), jnp.float32) if extent.mean_action else None
    if mean_action is not None:
        fields["mean_action"] = mean_action
    if extent.carry is not None:
        fields["start"] = SequenceStart(
            carry=extent.carry,
            prev_actions=of(spec.actions.shape, codecs["actions"].dtype),  # pyright: ignore
            mean_action=mean_action and of(mean_action.shape[1:], jnp.float32),  # pyright: ignore
        )
    return fields


def sequence_bytes(shapes: BufferState) -> int:
    """Bytes of one stored sequence."""
    return sum(field.size * field.dtype.itemsize for field in jax.tree.leaves(shapes))


def _distinct(key: Array, n: Array, count: int) -> Array:
    """`count` different integers in [0, n), every subset equally likely (Bentley & Floyd 1987).

    Draw i is from [0, n - count + i]; where it was chosen before, the largest of them is chosen.
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
    """Where sequences are kept; `rows` are encoded, `[B, T, ...]`.

    Attributes:
      spec: sizes.
      shapes: of one sequence, from `sequence_shapes`.
      codes: how floats are kept.
      capacity: sequences kept.
    """

    spec: EnvSpec
    shapes: BufferState
    codes: StorageDtypes
    capacity: int

    @property
    def codecs(self) -> dict[str, Codec]:
        """How each field of every trajectory is kept."""
        return _codecs(self.spec, self.codes)

    def init(self) -> BufferState:
        """An empty ring."""
        return jax.tree.map(lambda x: jnp.zeros((self.capacity, *x.shape), x.dtype), self.shapes)

    def n_stored(self, clock: Clock) -> Array:
        """i32[], sequences stored."""
        return jnp.minimum(clock.n_added, self.capacity)

    def encode(self, trajectory: Trajectory) -> BufferState:
        """Trajectory[T, B] -> rows."""
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
        """Rows -> Trajectory[T, B]."""
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
        """The state with rows over the oldest sequences."""
        first = clock.n_added % self.capacity
        return jax.tree.map(
            lambda ring, x: jax.lax.dynamic_update_slice_in_dim(ring, x, first, axis=0), state, rows
        )

    def read(self, state: BufferState, index: Array) -> Trajectory:
        """The sequences `index` i32[B], Trajectory[T, B]."""
        return self.decode(jax.tree.map(lambda ring: ring[index], state))

    def read_steps(self, state: BufferState, index: Array, step: Array) -> Trajectory:
        """Step `step` i32[B] of each sequence `index` i32[B], Trajectory[1, B], for agents without
        memory; `start` holds the last actions.
        """

        def cut(name: str, ring: Any) -> Any:
            steps = step[:, None] + jnp.arange(2 if name in _WITH_SUCCESSOR else 1)
            return jax.tree.map(lambda x: x[index[:, None], steps], ring)

        stored = {name: ring for name, ring in state.items() if name not in ("start", *_NOTED)}
        trajectory = self.decode({name: cut(name, ring) for name, ring in stored.items()})
        start = state.get("start")

        def before(name: str, none: Array, begun: Array | None) -> Array:
            """The step before in the sequence, or what the sequence began with."""
            earlier = state[name][index, jnp.maximum(step - 1, 0)]
            first = none if begun is None else begun[index]
            return _where(step == 0, jnp.broadcast_to(first, earlier.shape), earlier)

        none = no_action(state["actions"][:1, 0])
        previous = before("actions", none, start and start.prev_actions)
        mean_action = None
        if "mean_action" in state:
            mean_action = before("mean_action", jnp.zeros(()), start and start.mean_action)
        began = SequenceStart(
            carry={"act": (), "learn": ()},
            prev_actions=self.codecs["actions"].decode(previous),
            mean_action=mean_action,
        )
        return replace(trajectory, start=began)


def make_uniform(ring: Ring, batch: int) -> Buffer:
    """Every subset of `batch` stored sequences is equally likely; the first sample needs as many
    stored.
    """

    def add(state: BufferState, trajectory: Trajectory, clock: Clock) -> BufferState:
        return ring.write(state, ring.encode(trajectory), clock)

    def sample(state: BufferState, key: Array, clock: Clock) -> Batch:
        return _alike(ring, state, _distinct(key, ring.n_stored(clock), batch))

    def update(state: BufferState, batch: Batch, priority: Array) -> BufferState:
        del batch, priority
        return state

    return Buffer(ring.init, add, sample, update)


def make_transitions(ring: Ring, batch: int, length: int) -> Buffer:
    """Single transitions, every one of them equally likely: a batch holds different pairs of a
    sequence and a step, invalid steps included, which no loss counts.

    Args:
      ring: capacity and codes; the first sample needs `batch` steps stored.
      batch: B.
      length: T, steps per stored sequence.
    """

    def add(state: BufferState, trajectory: Trajectory, clock: Clock) -> BufferState:
        return ring.write(state, ring.encode(trajectory), clock)

    def sample(state: BufferState, key: Array, clock: Clock) -> Batch:
        index, step = jnp.divmod(_distinct(key, ring.n_stored(clock) * length, batch), length)
        trajectory = ring.read_steps(state, index, step)
        return Batch(trajectory=trajectory, weight=jnp.ones(index.shape), index=index)

    def update(state: BufferState, batch: Batch, priority: Array) -> BufferState:
        del batch, priority
        return state

    return Buffer(ring.init, add, sample, update)


def make_prioritised(ring: Ring, batch: int, exponent: float, correction: Schedule) -> Buffer:
    """Sequences of large error are drawn more often, and weigh less.

        P(i) = p_i^exponent / sum_j p_j^exponent;   w_i = P(i)^-c / max_j P(j)^-c over the batch

    Priorities are those of the last loss; a new sequence has the largest stored one.

    Args:
      ring: capacity and codes; the first sample needs `batch` sequences stored.
      batch: B.
      exponent: 0 draws uniformly.
      correction: c over env steps; 1 corrects the bias in full, 0 not at all.
    Reference: Schaul et al. 2016, section 3 (proportional); Kapturowski et al. 2019 for sequences.
    Deviation: drawn without replacement, while the weights are those of drawing with it (the same
    where a batch holds a small share of all priorities); the priority of a sequence is its largest
    error alone (their eta = 1).
    """

    def add(state: BufferState, trajectory: Trajectory, clock: Clock) -> BufferState:
        rows, highest = ring.encode(trajectory), jnp.max(state["priority"])
        newest = jnp.where(clock.n_added > 0, highest, 1.0)
        rows["priority"] = jnp.broadcast_to(newest, rows["reward"].shape[:1])
        return ring.write(state, rows, clock)

    def sample(state: BufferState, key: Array, clock: Clock) -> Batch:
        priority = state["priority"]
        is_stored = jnp.arange(len(priority)) < ring.n_stored(clock)
        log_share = jnp.where(is_stored, exponent * jnp.log(priority), -jnp.inf)
        index = _draw(key, log_share, batch)
        drawn = log_share[index]
        strength = schedules.linear(correction, clock.env_steps)
        weight = jnp.exp(strength * (jnp.min(drawn) - drawn))
        return Batch(trajectory=ring.read(state, index), weight=weight, index=index)

    def update(state: BufferState, batch: Batch, priority: Array) -> BufferState:
        renewed = state["priority"].at[batch.index].set(priority + _LEAST_PRIORITY)
        return {**state, "priority": renewed}

    return Buffer(ring.init, add, sample, update)


def make_on_policy(ring: Ring, batch: int) -> Buffer:
    """Only the last rollout, every sequence of it once per epoch, in an order drawn anew each time.

    A sample is a uniform draw from what the epoch has not used yet, which `update` marks: as the
    k-th slice of an epoch's permutation is distributed, but no key outlives its gradient step.

    Args:
      ring: its capacity is the rollout's B.
      batch: sequences per minibatch, a divisor of the rollout's.
    """

    def add(state: BufferState, trajectory: Trajectory, clock: Clock) -> BufferState:
        chex.assert_shape(state["used"], trajectory.reward.shape[1:])
        rows = {**ring.encode(trajectory), "used": jnp.zeros_like(state["used"])}
        return ring.write(state, rows, clock)

    def sample(state: BufferState, key: Array, clock: Clock) -> Batch:
        del clock
        return _alike(ring, state, _draw(key, jnp.where(state["used"], -jnp.inf, 0.0), batch))

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


def _alike(ring: Ring, state: BufferState, index: Array) -> Batch:
    """Sequences of weight 1."""
    return Batch(trajectory=ring.read(state, index), weight=jnp.ones(index.shape), index=index)


def _draw(key: Array, log_share: Array, count: int) -> Array:
    """`count` different indices, one after the other with probability proportional to
    `exp(log_share)` f32[capacity] among those left: the Gumbel top-k trick (Kool et al. 2019).
    """
    return jax.lax.top_k(log_share + jax.random.gumbel(key, log_share.shape), count)[1]
