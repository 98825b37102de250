"""Sequence replay: a ring of whole sequences on the device, in exact small dtypes.

The ring is `[capacity, T, ...]`; a minibatch is gathered, decoded and transposed to `[T, B, ...]`
once, on the way out. Everything that positions the ring comes from the unbatched `Clock`, so `add`
is one in-place slice update, for every member at the same place.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import config
from qmix_jax.types import Array, Batch, Clock, EnvSpec, Start, Trajectory

BufferState = dict[str, Any]
"""Field of `Trajectory` -> its ring `[capacity, T, ...]`, `start` (a tree) without T."""


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
      sample: `(state, key, Clock) -> Batch`; different sequences of those stored,
        every subset equally likely.
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


def sequence_shapes(spec: EnvSpec, length: int, codes: Codes, carry: Any = None) -> BufferState:
    """The fields of one stored sequence: its bytes are known before anything runs.

    Args:
      spec: sizes.  length: T, steps per sequence.  codes: how floats are kept.
      carry: shapes of one sequence's carry, where sequences continue episodes.
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


def make(spec: EnvSpec, shapes: BufferState, codes: Codes, capacity: int, batch: int) -> Buffer:
    """A uniform sequence ring.

    Args:
      spec: sizes.
      shapes: of one sequence, from `sequence_shapes`.
      codes: how floats are kept.
      capacity: sequences kept.
      batch: B, sequences per sample; the first sample needs as many stored.
    """
    codecs = _codecs(spec, codes)

    def init() -> BufferState:
        return jax.tree.map(lambda x: jnp.zeros((capacity, *x.shape), x.dtype), shapes)

    def add(state: BufferState, trajectory: Trajectory, clock: Clock) -> BufferState:
        chex.assert_is_divisible(capacity, trajectory.reward.shape[1])
        rows: BufferState = {
            name: codec.encode(jnp.swapaxes(getattr(trajectory, name), 0, 1))
            for name, codec in codecs.items()
        }
        if trajectory.start is not None:
            rows["start"] = jax.tree.map(
                lambda x, like: x.astype(like.dtype), trajectory.start, shapes["start"]
            )
        first = clock.n_added % capacity
        return jax.tree.map(
            lambda ring, x: jax.lax.dynamic_update_slice_in_dim(ring, x, first, axis=0), state, rows
        )

    def sample(state: BufferState, key: Array, clock: Clock) -> Batch:
        filled = jnp.minimum(clock.n_added, capacity)
        index = _distinct(key, filled, batch)
        rows = jax.tree.map(lambda ring: ring[index], state)
        fields: BufferState = {
            name: jnp.swapaxes(codec.decode(rows[name]), 0, 1) for name, codec in codecs.items()
        }
        if "start" in rows:
            previous = rows["start"].prev_actions.astype(jnp.int32)
            fields["start"] = replace(rows["start"], prev_actions=previous)
        return Batch(trajectory=Trajectory(**fields), weight=jnp.ones((batch,)), index=index)

    def update(state: BufferState, batch: Batch, priority: Array) -> BufferState:
        del batch, priority
        return state

    return Buffer(init, add, sample, update)
