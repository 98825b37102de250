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
import numpy as np

from qmix_jax import config
from qmix_jax.core import schedules
from qmix_jax.types import Array, Batch, Clock, EnvSpec, Schedule, Start, Trajectory

BufferState = dict[str, Any]
"""Field of `Trajectory` -> its ring `[capacity, T, ...]`, `start` (a tree) without T; and what a
buffer notes of each sequence, `[capacity]`.
"""

NOTES = {"uniform": {}, "prioritised": {"priority": jnp.float32}, "on_policy": {"used": jnp.bool_}}
"""Kind of buffer -> what it notes of each sequence."""

_LEAST_PRIORITY = 1e-6
"""Added to every error, so that a sequence without any can still be drawn."""


class Codes(NamedTuple):
    """How observations and states are kept."""

    obs: config.FloatCode = "float32"
    state: config.FloatCode = "float32"


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


def float_codec(code: config.FloatCode, bounds: tuple[float, float] | None = None) -> Codec:
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


def integer_codec(n_values: int) -> Codec:
    """Keeps integers in [0, n_values) in the smallest signed type that holds them."""
    small = np.min_scalar_type(-n_values)
    return Codec(small, lambda x: x.astype(small), lambda x: x.astype(jnp.int32))


def check_codes(spec: EnvSpec, codes: Codes) -> None:
    """Raises: ConfigError if 8 bits are asked for values whose range is not known."""
    for field, bounds in (("obs", spec.obs_bounds), ("state", spec.state_bounds)):
        if getattr(codes, field) == "uint8" and bounds is None:
            raise config.ConfigError(
                f"replay: replay.{field}_dtype=uint8 needs values of known range, and {spec.name} "
                "states none; use float16"
            )


def _codecs(spec: EnvSpec, codes: Codes) -> dict[str, Codec]:
    plain = float_codec("float32")
    flag = Codec(jnp.bool_, lambda x: x, lambda x: x)
    return {
        "obs": float_codec(codes.obs, spec.obs_bounds),
        "state": float_codec(codes.state, spec.state_bounds),
        "avail_actions": flag,
        "reset": flag,
        "actions": integer_codec(spec.n_actions_max),
        "reward": plain,
        "terminated": flag,
        "valid": flag,
    }


def sequence_shapes(
    spec: EnvSpec, length: int, codes: Codes, carry: Any = None, kind: str = "uniform"
) -> BufferState:
    """The fields of one stored sequence: its bytes are known before anything runs.

    Args:
      spec: sizes.  length: T, steps per sequence.  codes: how floats are kept.
      carry: shapes of one sequence's carry, where sequences continue episodes.
      kind: of the buffer, one of `NOTES`.
    """
    n, a = spec.n_agents, spec.n_actions_max
    shapes = {
        "obs": (length + 1, n, *spec.obs_shape),
        "state": (length + 1, spec.state_size),
        "avail_actions": (length + 1, n, a),
        "reset": (length + 1,),
        "actions": (length, n),
        "reward": (length,),
        "terminated": (length,),
        "valid": (length,),
    }
    codecs = _codecs(spec, codes)
    fields = {
        name: jax.ShapeDtypeStruct(shape, codecs[name].dtype) for name, shape in shapes.items()
    }
    fields |= {name: jax.ShapeDtypeStruct((), dtype) for name, dtype in NOTES[kind].items()}
    if carry is None:
        return fields
    previous: Any = jax.ShapeDtypeStruct((n,), codecs["actions"].dtype)
    return {**fields, "start": Start(carry=carry, prev_actions=previous)}


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
      init: `() -> state`.
      encode: `(Trajectory[T, B]) -> rows`.
      write: `(state, rows, Clock) -> state`, over the oldest sequences.
      read: `(state, index i32[B]) -> Trajectory[T, B]`.
      n_stored: `(Clock) -> i32[]`.
    """

    init: Callable[[], BufferState]
    encode: Callable[[Trajectory], BufferState]
    write: Callable[[BufferState, BufferState, Clock], BufferState]
    read: Callable[[BufferState, Array], Trajectory]
    n_stored: Callable[[Clock], Array]


def make_ring(spec: EnvSpec, shapes: BufferState, codes: Codes, capacity: int) -> Ring:
    """An empty ring.

    Args:
      spec: sizes.
      shapes: of one sequence, from `sequence_shapes`.
      codes: how floats are kept.
      capacity: sequences kept.
    """
    codecs = _codecs(spec, codes)

    def init() -> BufferState:
        return jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)

    def encode(trajectory: Trajectory) -> BufferState:
        chex.assert_is_divisible(capacity, trajectory.reward.shape[1])
        rows: BufferState = {
            name: codec.encode(jnp.swapaxes(getattr(trajectory, name), 0, 1))
            for name, codec in codecs.items()
        }
        if trajectory.start is not None:
            rows["start"] = jax.tree.map(
                lambda x, like: x.astype(like.dtype), trajectory.start, shapes["start"]
            )
        return rows

    def write(state: BufferState, rows: BufferState, clock: Clock) -> BufferState:
        first = clock.n_added % capacity
        return jax.tree.map(
            lambda ring, x: jax.lax.dynamic_update_slice_in_dim(ring, x, first, axis=0), state, rows
        )

    def read(state: BufferState, index: Array) -> Trajectory:
        rows = jax.tree.map(lambda ring: ring[index], state)
        fields: BufferState = {
            name: jnp.swapaxes(codec.decode(rows[name]), 0, 1) for name, codec in codecs.items()
        }
        if "start" in rows:
            previous = rows["start"].prev_actions.astype(jnp.int32)
            fields["start"] = replace(rows["start"], prev_actions=previous)
        return Trajectory(**fields)

    def n_stored(clock: Clock) -> Array:
        return jnp.minimum(clock.n_added, capacity)

    return Ring(init, encode, write, read, n_stored)


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


def _alike(ring: Ring, state: BufferState, index: Array) -> Batch:
    """Sequences of weight 1."""
    return Batch(trajectory=ring.read(state, index), weight=jnp.ones(index.shape), index=index)


def _draw(key: Array, log_share: Array, count: int) -> Array:
    """`count` different indices, one after the other with probability proportional to
    `exp(log_share)` f32[capacity] among those left: the Gumbel top-k trick (Kool et al. 2019).
    """
    return jax.lax.top_k(log_share + jax.random.gumbel(key, log_share.shape), count)[1]
