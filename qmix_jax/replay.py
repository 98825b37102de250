"""Sequence replay: a ring of whole sequences on the device, in exact small dtypes.

The ring is `[capacity, T, ...]`; a minibatch is gathered, decoded and transposed to `[T, B, ...]`
once, on the way out. Everything that positions the ring comes from the unbatched `Clock`, so `add`
is one in-place slice update, for every member at the same place.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import config
from qmix_jax.types import Array, Batch, Clock, EnvSpec, Trajectory

BufferState = dict[str, Array]
"""Field of `Trajectory` -> its ring `[capacity, T, ...]`."""


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
      sample: `(state, key, Clock) -> Batch`; uniform with replacement over the filled part.
      update: `(state, Batch, priority f32[B]) -> state`.
    """

    init: Callable[[], BufferState]
    add: Callable[[BufferState, Trajectory, Clock], BufferState]
    sample: Callable[[BufferState, Array, Clock], Batch]
    update: Callable[[BufferState, Batch, Array], BufferState]


def float_codec(code: config.FloatCode) -> Codec:
    """Keeps floats in 32 bits, or 16 as raw bits (XLA on CPUs converts a whole bfloat16 buffer)."""
    if code == "float32":
        return Codec(jnp.float32, lambda x: x, lambda x: x)
    small = jnp.dtype(code)
    return Codec(
        jnp.uint16,
        lambda x: jax.lax.bitcast_convert_type(x.astype(small), jnp.uint16),
        lambda x: jax.lax.bitcast_convert_type(x, small).astype(jnp.float32),
    )


def integer_codec(n_values: int) -> Codec:
    """Keeps integers in [0, n_values) in the smallest signed type that holds them."""
    small = np.min_scalar_type(-n_values)
    return Codec(small, lambda x: x.astype(small), lambda x: x.astype(jnp.int32))


def _codecs(
    spec: EnvSpec, obs_code: config.FloatCode, state_code: config.FloatCode
) -> dict[str, Codec]:
    plain = float_codec("float32")
    flag = Codec(jnp.bool_, lambda x: x, lambda x: x)
    return {
        "obs": float_codec(obs_code),
        "state": float_codec(state_code),
        "avail_actions": flag,
        "reset": flag,
        "actions": integer_codec(spec.n_actions_max),
        "reward": plain,
        "terminated": flag,
        "valid": flag,
    }


def sequence_shapes(
    spec: EnvSpec, window: int, obs_code: config.FloatCode, state_code: config.FloatCode
) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of one stored sequence: its bytes are known before anything runs."""
    n, a = spec.n_agents, spec.n_actions_max
    shapes = {
        "obs": (window + 1, n, *spec.obs_shape),
        "state": (window + 1, spec.state_size),
        "avail_actions": (window + 1, n, a),
        "reset": (window + 1,),
        "actions": (window, n),
        "reward": (window,),
        "terminated": (window,),
        "valid": (window,),
    }
    codecs = _codecs(spec, obs_code, state_code)
    return {name: jax.ShapeDtypeStruct(shape, codecs[name].dtype) for name, shape in shapes.items()}


def sequence_bytes(shapes: dict[str, jax.ShapeDtypeStruct]) -> int:
    """Bytes of one stored sequence."""
    return sum(field.size * field.dtype.itemsize for field in shapes.values())


def make(
    spec: EnvSpec,
    window: int,
    capacity: int,
    batch_size: int,
    obs_code: config.FloatCode = "float32",
    state_code: config.FloatCode = "float32",
) -> Buffer:
    """A uniform sequence ring.

    Args:
      spec: sizes.
      window: T, steps per sequence.
      capacity: sequences kept.
      batch_size: B, sequences per sample.
      obs_code, state_code: how observations and states are kept.
    Deviation from PyMARL: sampled with replacement.
    """
    codecs = _codecs(spec, obs_code, state_code)

    def init() -> BufferState:
        shapes = sequence_shapes(spec, window, obs_code, state_code)
        return {name: jnp.zeros((capacity, *x.shape), x.dtype) for name, x in shapes.items()}

    def add(state: BufferState, trajectory: Trajectory, clock: Clock) -> BufferState:
        n_new = trajectory.reward.shape[1]
        chex.assert_is_divisible(capacity, n_new)
        start = clock.n_added % capacity

        def write(name: str, codec: Codec) -> Array:
            rows = codec.encode(jnp.swapaxes(getattr(trajectory, name), 0, 1))
            return jax.lax.dynamic_update_slice_in_dim(state[name], rows, start, axis=0)

        return {name: write(name, codec) for name, codec in codecs.items()}

    def sample(state: BufferState, key: Array, clock: Clock) -> Batch:
        filled = jnp.minimum(clock.n_added, capacity)
        index = jax.random.randint(key, (batch_size,), 0, filled)
        fields = {
            name: jnp.swapaxes(codec.decode(state[name][index]), 0, 1)
            for name, codec in codecs.items()
        }
        return Batch(trajectory=Trajectory(**fields), weight=jnp.ones((batch_size,)), index=index)

    def update(state: BufferState, batch: Batch, priority: Array) -> BufferState:
        del batch, priority
        return state

    return Buffer(init, add, sample, update)
