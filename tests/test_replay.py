"""The sequence ring against a plain list."""

import collections
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax import config, replay
from qmix_jax.types import Box, Clock, Discrete, EnvSpec, SequenceStart, Trajectory

T, B, N, A = 4, 3, 2, 130
SPEC = EnvSpec(
    name="x",
    agent_names=("a", "b"),
    agent_groups=(0, 0),
    actions=Discrete((A, A)),
    obs_shapes=((5,), (5,)),
    obs_shape=(5,),
    state_size=6,
    max_steps=T,
)


def make(capacity, batch, codes=replay.StorageDtypes(), carry=None):  # noqa: B008
    shapes = replay.sequence_shapes(SPEC, replay.StoredFields(T, carry=carry), codes)
    return replay.make_uniform(replay.Ring(SPEC, shapes, codes, capacity), batch)


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
    buffer = make(capacity=6, batch=3)
    state, sequences = buffer.init(), []
    for i in range(5):
        added = trajectory(i)
        state = jax.jit(buffer.add)(state, added, clock(i * B))
        sequences += [column(added, b) for b in range(B)]
        expected = {float(sequence.reward[0]): sequence for sequence in sequences[-6:]}
        sample, seen = jax.jit(buffer.sample), set()
        for draw in range(21):
            batch = sample(state, jax.random.key(draw), clock((i + 1) * B))
            for b in range(3):
                drawn = column(batch.trajectory, b)
                seen.add(float(drawn.reward[0]))
                equal(drawn, expected[float(drawn.reward[0])])
        assert seen == set(expected), "63 draws include each of at most 6 sequences"
        assert batch.trajectory.actions.dtype == jnp.int32
        np.testing.assert_array_equal(batch.weight, np.ones(3))


def test_only_stored_sequences_are_sampled():
    buffer = make(capacity=600, batch=2)
    state = buffer.add(buffer.init(), trajectory(0), clock(0))
    keys = jax.random.split(jax.random.key(0), 100)
    batch = jax.vmap(buffer.sample, in_axes=(None, 0, None))(state, keys, clock(B))
    assert set(np.asarray(batch.index).ravel()) == {0, 1, 2}


@pytest.mark.parametrize(("stored", "batch"), [(3, 3), (6, 1), (6, 4), (8, 5)])
def test_a_batch_is_a_uniform_draw_without_replacement(stored, batch):
    buffer = make(capacity=9, batch=batch)
    state, draws = buffer.init(), 20_000
    keys = jax.random.split(jax.random.key(stored), draws)
    sampled = jax.vmap(lambda key: buffer.sample(state, key, clock(stored)).index)
    subsets = np.sort(np.asarray(jax.jit(sampled)(keys)), axis=1)
    assert (np.diff(subsets, axis=1) > 0).all(), "a sequence was drawn twice"
    counts = collections.Counter(map(tuple, subsets))
    n_subsets = math.comb(stored, batch)
    expected = draws / n_subsets
    assert len(counts) == n_subsets
    assert max(abs(n - expected) for n in counts.values()) <= 5 * math.sqrt(expected)


@pytest.mark.parametrize(
    ("code", "tolerance"), [("float32", 0.0), ("float16", 2**-11), ("bfloat16", 2**-8)]
)
def test_storage_error_is_within_the_precision_of_the_dtype(code, tolerance):
    buffer = make(capacity=3, batch=3, codes=replay.StorageDtypes(obs=code))
    added = trajectory(1)
    state = buffer.add(buffer.init(), added, clock(0))
    assert state["obs"].dtype == (jnp.float32 if code == "float32" else jnp.uint16)
    batch = buffer.sample(state, jax.random.key(0), clock(B))
    expected = np.asarray(added.obs)[:, np.asarray(batch.index)]
    assert batch.trajectory.obs.dtype == jnp.float32
    assert np.all(np.abs(batch.trajectory.obs - expected) <= tolerance * np.abs(expected))
    np.testing.assert_array_equal(batch.trajectory.state, added.state[:, batch.index])


def test_eight_bits_are_within_half_a_step_and_exact_at_the_ends_and_the_middle():
    codec = replay.float_codec("uint8", (-1.0, 3.0))
    assert codec.dtype == jnp.uint8
    exact = jnp.array([-1.0, 1.0, 3.0])
    np.testing.assert_array_equal(codec.decode(codec.encode(exact)), exact)
    values = jnp.linspace(-1.0, 3.0, 1001)
    error = np.abs(codec.decode(codec.encode(values)) - values)
    assert 0.9 * 2 / 254 * 2 / 2 < error.max() <= 2 / 127 / 2 + 1e-6
    outside = codec.decode(codec.encode(jnp.array([-9.0, 9.0])))
    np.testing.assert_array_equal(outside, [-1.0, 3.0])


def test_eight_bits_need_bounds():
    with pytest.raises(config.ConfigError, match="obs_dtype=uint8 needs bounds"):
        replay.check_storage(SPEC, replay.StorageDtypes(obs="uint8"))
    replay.check_storage(replace(SPEC, obs_bounds=(0.0, 1.0)), replay.StorageDtypes(obs="uint8"))


def test_sequence_starts_are_stored():
    carry = jax.ShapeDtypeStruct((N, 3), jnp.float32)
    buffer = make(6, 6, carry=carry)
    rng = np.random.default_rng(0)
    start = SequenceStart(
        carry=jnp.asarray(rng.normal(size=(B, N, 3)), jnp.float32),
        prev_actions=jnp.asarray(rng.integers(-1, A, (B, N)), jnp.int32),
    )
    state = buffer.add(buffer.init(), replace(trajectory(0), start=start), clock(B))
    batch = buffer.sample(state, jax.random.key(0), clock(2 * B))
    is_second = np.asarray(batch.index) >= B
    slots = np.asarray(batch.index)[is_second] - B
    assert len(set(slots)) == B
    drawn = batch.trajectory.start
    assert drawn.prev_actions.dtype == jnp.int32
    np.testing.assert_array_equal(drawn.carry[is_second], start.carry[slots])
    np.testing.assert_array_equal(drawn.prev_actions[is_second], start.prev_actions[slots])


@pytest.mark.parametrize(("n_actions", "dtype"), [(5, "int8"), (127, "int8"), (130, "int16")])
def test_discrete_actions_are_stored_in_the_smallest_signed_type(n_actions, dtype):
    codec = replay.action_codec(Discrete((2, n_actions)))
    assert codec.dtype == np.dtype(dtype)
    values = jnp.arange(-1, n_actions)
    np.testing.assert_array_equal(codec.decode(codec.encode(values)), values)


def test_continuous_actions_are_stored_unchanged():
    codec = replay.action_codec(Box((2, 1)))
    values = jnp.asarray([[0.1, -1.0], [1e-7, 0.0]], jnp.float32)
    assert codec.dtype == np.float32
    np.testing.assert_array_equal(codec.decode(codec.encode(values)), values)


def with_extras(seed):
    """A trajectory with all optional fields."""
    rng = np.random.default_rng(seed)
    floats = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return replace(
        trajectory(seed),
        reward=floats(T, B, N),
        behaviour={"log_prob": floats(T, B, N), "policy": jnp.ones((T, B), jnp.int8)},
        mean_action=floats(T, B, N, A),
    )


EXTRAS = replay.StoredFields(
    T,
    reward_per_agent=True,
    behaviour={
        "log_prob": jax.ShapeDtypeStruct((1, N), jnp.float32),
        "policy": jax.ShapeDtypeStruct((1,), jnp.int8),
    },
    mean_action=True,
)


def test_rewards_per_agent_behaviour_and_mean_actions_round_trip():
    codes = replay.StorageDtypes()
    shapes = replay.sequence_shapes(SPEC, EXTRAS, codes)
    buffer = replay.make_uniform(replay.Ring(SPEC, shapes, codes, 3), 3)
    added = with_extras(0)
    state = buffer.add(buffer.init(), added, clock(0))
    assert replay.sequence_bytes(shapes) * 3 == sum(x.nbytes for x in jax.tree.leaves(state))
    batch = jax.jit(buffer.sample)(state, jax.random.key(0), clock(B))
    expected = jax.tree.map(lambda x: x[:, batch.index], added)
    equal(batch.trajectory, expected)


@pytest.mark.parametrize("begins", ["with an episode", "anywhere"])
def test_transitions_have_their_successor_and_previous_actions(begins):
    """All 12 pairs of sequence and step are drawn, none twice in a batch."""
    codes, added = replay.StorageDtypes(), with_extras(0)
    carry, start = None, None
    if begins == "anywhere":
        carry = {"act": (), "learn": ()}
        rng = np.random.default_rng(1)
        start = SequenceStart(
            carry=carry,
            prev_actions=jnp.asarray(rng.integers(-1, A, (B, N)), jnp.int32),
            mean_action=jnp.asarray(rng.normal(size=(B, N, A)), jnp.float32),
        )
        added = replace(added, start=start)
    shapes = replay.sequence_shapes(SPEC, EXTRAS._replace(carry=carry), codes)
    buffer = replay.make_transitions(replay.Ring(SPEC, shapes, codes, 6), 5, T)
    state = buffer.add(buffer.init(), added, clock(0))
    sample, drawn_pairs = jax.jit(buffer.sample), set()
    for draw in range(12):
        batch = sample(state, jax.random.key(draw), clock(B))
        drawn = batch.trajectory
        pairs = []
        for i in range(5):
            b = int(batch.index[i])
            (t,) = (t for t in range(T) if np.array_equal(drawn.reward[0, i], added.reward[t, b]))
            pairs.append((b, t))
            for name in ("obs", "state", "avail_actions", "reset"):
                np.testing.assert_array_equal(
                    getattr(drawn, name)[:, i], getattr(added, name)[t : t + 2, b], err_msg=name
                )
            for name in ("actions", "terminated", "valid", "mean_action"):
                np.testing.assert_array_equal(
                    getattr(drawn, name)[0, i], getattr(added, name)[t, b], err_msg=name
                )
            equal(
                jax.tree.map(lambda x, i=i: x[0, i], drawn.behaviour),
                jax.tree.map(lambda x, t=t, b=b: x[t, b], added.behaviour),
            )
            none = (np.full(N, -1), np.zeros((N, A)))
            first = none if start is None else (start.prev_actions[b], start.mean_action[b])
            before = first if t == 0 else (added.actions[t - 1, b], added.mean_action[t - 1, b])
            np.testing.assert_array_equal(drawn.start.prev_actions[i], before[0])
            np.testing.assert_array_equal(drawn.start.mean_action[i], before[1])
        assert len(set(pairs)) == 5
        drawn_pairs |= set(pairs)
    assert len(drawn_pairs) == B * T


def test_sequence_bytes_are_known_from_shapes():
    codes = replay.StorageDtypes("float32", "float16")
    shapes = replay.sequence_shapes(SPEC, replay.StoredFields(T), codes)
    expected = (T + 1) * (N * 5 * 4 + 6 * 2 + N * A + 1) + T * (N * 2 + 4 + 1 + 1)
    assert replay.sequence_bytes(shapes) == expected
    state = make(7, 2, codes).init()
    assert sum(x.nbytes for x in jax.tree.leaves(state)) == 7 * expected
