"""The sequence ring against a plain list."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax import replay
from qmix_jax.types import Clock, EnvSpec, Trajectory

T, B, N, A = 4, 3, 2, 130
SPEC = EnvSpec(
    name="x",
    agent_names=("a", "b"),
    agent_groups=(0, 0),
    n_actions=(A, A),
    obs_shapes=((5,), (5,)),
    obs_shape=(5,),
    state_size=6,
    max_steps=T,
)


def clock(n_added):
    zero = jnp.zeros((), jnp.int32)
    return Clock(
        update_index=zero, gradient_step=zero, env_steps=jnp.zeros(()), n_added=jnp.int32(n_added)
    )


def trajectory(seed):
    rng = np.random.default_rng(seed)
    flags = lambda *shape: jnp.asarray(rng.random(shape) < 0.5)  # noqa: E731
    floats = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return Trajectory(
        obs=floats(T + 1, B, N, 5),
        state=floats(T + 1, B, 6),
        avail_actions=flags(T + 1, B, N, A),
        reset=flags(T + 1, B),
        actions=jnp.asarray(rng.integers(0, A, (T, B, N)), jnp.int32),
        reward=floats(T, B),
        terminated=flags(T, B),
        valid=flags(T, B),
    )


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def column(batch, b):
    return jax.tree.map(lambda x: x[:, b], batch)


def test_ring_keeps_the_newest_sequences_exactly():
    buffer = replay.make(SPEC, T, capacity=6, batch_size=64)
    state, kept = buffer.init(), []
    for i in range(5):
        added = trajectory(i)
        state = jax.jit(buffer.add)(state, added, clock(i * B))
        kept += [column(added, b) for b in range(B)]
        batch = jax.jit(buffer.sample)(state, jax.random.key(i), clock((i + 1) * B))
        newest = kept[-6:]
        expected = {float(sequence.reward[0]): sequence for sequence in newest}
        seen = set()
        for b in range(64):
            drawn = column(batch.trajectory, b)
            seen.add(float(drawn.reward[0]))
            equal(drawn, expected[float(drawn.reward[0])])
        assert seen == set(expected), "64 draws from at most 6 sequences meet every one"
        assert batch.trajectory.actions.dtype == jnp.int32
        np.testing.assert_array_equal(batch.weight, np.ones(64))


def test_sampling_never_touches_what_was_not_added():
    buffer = replay.make(SPEC, T, capacity=600, batch_size=256)
    state = buffer.add(buffer.init(), trajectory(0), clock(0))
    batch = buffer.sample(state, jax.random.key(0), clock(B))
    assert set(np.asarray(batch.index)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("code", "tolerance"), [("float32", 0.0), ("float16", 2**-11), ("bfloat16", 2**-8)]
)
def test_float_codes_lose_no_more_than_their_precision(code, tolerance):
    buffer = replay.make(SPEC, T, capacity=3, batch_size=16, obs_code=code, state_code="float32")
    added = trajectory(1)
    state = buffer.add(buffer.init(), added, clock(0))
    assert state["obs"].dtype == (jnp.float32 if code == "float32" else jnp.uint16)
    batch = buffer.sample(state, jax.random.key(0), clock(B))
    expected = np.asarray(added.obs)[:, np.asarray(batch.index)]
    assert batch.trajectory.obs.dtype == jnp.float32
    assert np.all(np.abs(batch.trajectory.obs - expected) <= tolerance * np.abs(expected))
    np.testing.assert_array_equal(batch.trajectory.state, added.state[:, batch.index])


@pytest.mark.parametrize(("n_values", "dtype"), [(5, "int8"), (127, "int8"), (130, "int16")])
def test_integers_are_kept_in_the_smallest_signed_type(n_values, dtype):
    codec = replay.integer_codec(n_values)
    assert codec.dtype == np.dtype(dtype)
    values = jnp.arange(n_values)
    np.testing.assert_array_equal(codec.decode(codec.encode(values)), values)


def test_bytes_are_known_from_shapes_alone():
    shapes = replay.sequence_shapes(SPEC, T, "float32", "float16")
    expected = (T + 1) * (N * 5 * 4 + 6 * 2 + N * A + 1) + T * (N * 2 + 4 + 1 + 1)
    assert replay.sequence_bytes(shapes) == expected
    state = replay.make(SPEC, T, 7, 2, "float32", "float16").init()
    assert sum(x.nbytes for x in jax.tree.leaves(state)) == 7 * expected
