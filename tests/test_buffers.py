"""Sampling of buffers: minibatches of the last rollout, and sequences by priority."""

import collections
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax import replay
from qmix_jax.types import Clock, Discrete, EnvSpec, Schedule, Trajectory

CODES = replay.StorageDtypes()
SPEC = EnvSpec(
    name="x",
    agent_names=("a",),
    agent_groups=(0,),
    actions=Discrete((2,)),
    obs_shapes=((1,),),
    obs_shape=(1,),
    state_size=1,
    max_steps=1,
)


def ring(kind, capacity):
    shapes = replay.sequence_shapes(SPEC, replay.StoredFields(1), CODES, kind)
    return replay.Ring(SPEC, shapes, CODES, capacity)


def clock(n_added, env_steps=0.0):
    zero = jnp.zeros((), jnp.int32)
    steps = jnp.float32(env_steps)
    return Clock(update_index=zero, gradient_step=zero, env_steps=steps, n_added=jnp.int32(n_added))


def rollout(*rewards):
    """One step per sequence, identified by its reward."""
    b = len(rewards)
    return Trajectory(
        obs=jnp.zeros((2, b, 1, 1)),
        state=jnp.zeros((2, b, 1)),
        avail_actions=jnp.ones((2, b, 1, 2), bool),
        reset=jnp.zeros((2, b), bool),
        actions=jnp.zeros((1, b, 1), jnp.int32),
        reward=jnp.array([rewards], jnp.float32),
        terminated=jnp.zeros((1, b), bool),
        valid=jnp.ones((1, b), bool),
    )


def close(counts, shares, draws):
    """Counts of outcomes are within five standard deviations of draws from `shares`."""
    assert set(counts) <= set(shares)
    for outcome, share in shares.items():
        spread = math.sqrt(draws * share * (1.0 - share))
        assert abs(counts[outcome] - draws * share) <= 5.0 * spread, outcome


def epoch(buffer, state, key, steps):
    """Runs (sample, update) `steps` times -> (state, index i32[steps, batch])."""

    def step(state, k):
        batch = buffer.sample(state, jax.random.fold_in(key, k), clock(0))
        return buffer.update(state, batch, jnp.zeros(len(batch.index))), batch.index

    return jax.lax.scan(step, state, jnp.arange(steps))


def test_an_epoch_uses_every_sequence_of_the_last_rollout_once():
    buffer = replay.make_on_policy(ring("on_policy", 6), 2)
    state = buffer.add(buffer.init(), rollout(*range(6)), clock(0))
    state, first = jax.jit(lambda s, k: epoch(buffer, s, k, 6))(state, jax.random.key(0))
    first = np.asarray(first).reshape(2, 6)
    np.testing.assert_array_equal(np.sort(first), np.arange(6)[None].repeat(2, 0))
    assert (first[0] != first[1]).any(), "epochs have different orders"
    state = buffer.add(state, rollout(*range(10, 16)), clock(6))
    batch = buffer.sample(state, jax.random.key(1), clock(12))
    np.testing.assert_array_equal(batch.trajectory.reward[0], 10.0 + batch.index)
    np.testing.assert_array_equal(batch.weight, [1.0, 1.0])


def test_a_new_rollout_starts_a_new_epoch():
    buffer = replay.make_on_policy(ring("on_policy", 4), 2)
    state = buffer.add(buffer.init(), rollout(*range(4)), clock(0))
    state, _ = epoch(buffer, state, jax.random.key(0), 1)
    state = buffer.add(state, rollout(*range(4)), clock(4))
    _, index = epoch(buffer, state, jax.random.key(1), 2)
    assert sorted(np.ravel(index)) == [0, 1, 2, 3]


def test_every_order_of_minibatches_is_equally_likely():
    buffer, draws = replay.make_on_policy(ring("on_policy", 4), 2), 12_000
    state = buffer.add(buffer.init(), rollout(*range(4)), clock(0))
    keys = jax.random.split(jax.random.key(0), draws)
    index = jax.jit(jax.vmap(lambda key: epoch(buffer, state, key, 2)[1]))(keys)
    counts = collections.Counter(tuple(sorted(map(int, pair))) for pair in np.asarray(index)[:, 0])
    close(counts, dict.fromkeys(itertools.combinations(range(4), 2), 1 / 6), draws)


def prioritised(priorities, batch, exponent, correction=1.0, capacity=None):
    """(buffer, state) whose sequences 0, 1, ... have these priorities."""
    capacity = capacity or len(priorities)
    if not isinstance(correction, Schedule):
        strength = jnp.float32(correction)
        correction = Schedule(start=strength, end=strength, steps=jnp.float32(1.0))
    buffer_ring = ring("prioritised", capacity)
    buffer = replay.make_prioritised(buffer_ring, batch, exponent, correction)
    state = buffer.add(buffer.init(), rollout(*range(len(priorities))), clock(0))
    return buffer, note(buffer, state, range(len(priorities)), priorities)


def note(buffer, state, index, priorities):
    """The state after a gradient step on these sequences."""
    batch = buffer.sample(state, jax.random.key(0), clock(len(state["priority"])))
    batch = batch.replace(index=jnp.array(index, jnp.int32))
    return buffer.update(state, batch, jnp.array(priorities, jnp.float32))


def drawn(buffer, state, n_stored, draws=20_000):
    """Counter of the sets of sequences drawn, and all batches."""
    keys = jax.random.split(jax.random.key(7), draws)
    sample = jax.jit(jax.vmap(lambda key: buffer.sample(state, key, clock(n_stored))))
    batches = sample(keys)
    return collections.Counter(map(tuple, np.sort(batches.index, axis=1).tolist())), batches


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_sampling_is_proportional_to_a_power_of_the_priority(exponent):
    priorities = np.array([0.25, 1.0, 4.0, 16.0])
    shares = priorities**exponent / np.sum(priorities**exponent)
    counts, _ = drawn(*prioritised(priorities, 1, exponent), n_stored=4)
    close(counts, {(i,): share for i, share in enumerate(shares)}, 20_000)


def test_prioritised_sampling_is_without_replacement():
    """One after the other: P({i, j}) = p_i p_j / (1 - p_i) + p_j p_i / (1 - p_j)."""
    p = np.array([0.1, 0.2, 0.3, 0.4])
    counts, _ = drawn(*prioritised(10 * p, 2, 1.0), n_stored=4)
    pairs = itertools.combinations(range(4), 2)
    shares = {(i, j): p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i, j in pairs}
    assert sum(shares.values()) == pytest.approx(1.0)
    close(counts, shares, 20_000)


def test_exponent_zero_samples_uniformly():
    counts, batches = drawn(*prioritised([1e-3, 1.0, 50.0, 0.0], 2, 0.0), n_stored=4)
    close(counts, dict.fromkeys(itertools.combinations(range(4), 2), 1 / 6), 20_000)
    np.testing.assert_array_equal(batches.weight, 1.0)


@pytest.mark.parametrize(("env_steps", "strength"), [(0, 0.5), (50, 0.75), (100, 1.0), (900, 1.0)])
def test_weights_by_hand(env_steps, strength):
    """Priorities 1, 4, 16 at exponent 0.5 are shares 1 : 2 : 4, so the weights are 1, 2^-c, 4^-c;
    c goes from 0.5 to 1 over 100 env steps."""
    correction = Schedule(start=jnp.float32(0.5), end=jnp.float32(1.0), steps=jnp.float32(100.0))
    buffer, state = prioritised([1.0, 4.0, 16.0], 3, 0.5, correction)
    batch = buffer.sample(state, jax.random.key(0), clock(3, env_steps))
    expected = np.array([1.0, 2.0, 4.0]) ** -strength
    np.testing.assert_allclose(batch.weight, expected[np.asarray(batch.index)], rtol=1e-5)


def test_new_sequences_have_the_largest_priority_and_empty_entries_are_never_sampled():
    buffer, state = prioritised([2.0, 9.0], 2, 1.0, capacity=6)
    np.testing.assert_allclose(state["priority"], [2, 9, 0, 0, 0, 0], rtol=1e-5)
    counts, _ = drawn(buffer, state, 2, draws=100)
    assert set(counts) == {(0, 1)}
    state = buffer.add(state, rollout(2, 3), clock(2))
    np.testing.assert_allclose(state["priority"], [2, 9, 9, 9, 0, 0], rtol=1e-5)
    state = note(buffer, state, [1, 3], [0.5, 0.0])
    np.testing.assert_allclose(state["priority"], [2, 0.5, 9, 0, 0, 0], atol=1e-5)
    assert state["priority"][3] > 0.0, "a sequence without error can be drawn again"
    first = buffer.add(buffer.init(), rollout(0, 1), clock(0))
    np.testing.assert_array_equal(first["priority"], [1, 1, 0, 0, 0, 0])


@pytest.mark.parametrize("kind", ["prioritised", "on_policy"])
def test_members_of_a_population_sample_independently(kind):
    """Two vmapped members with different priorities and keys sample as they do alone."""
    if kind == "prioritised":
        buffer, state = prioritised([1.0, 4.0, 16.0, 64.0], 2, 1.0)
    else:
        buffer = replay.make_on_policy(ring("on_policy", 4), 2)
        state = buffer.add(buffer.init(), rollout(*range(4)), clock(0))
    states = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    keys = jax.random.split(jax.random.key(3), (5, 2))

    def run(state, keys):
        def step(state, key):
            batch = buffer.sample(state, key, clock(4))
            return buffer.update(state, batch, batch.trajectory.reward[0] + 1.0), batch.index

        return jax.lax.scan(step, state, keys)

    together = jax.jit(jax.vmap(run, in_axes=(0, 1)))(states, keys)
    for member in range(2):
        alone = jax.jit(run)(state, keys[:, member])
        same = lambda a, b: np.testing.assert_array_equal(a, b[member])  # noqa: B023, E731
        jax.tree.map(same, alone, together)
    assert (together[1][0] != together[1][1]).any()


def test_sequence_bytes_include_bookkeeping():
    for kind, extra in (("uniform", 0), ("prioritised", 4), ("on_policy", 1)):
        shapes = replay.sequence_shapes(SPEC, replay.StoredFields(1), CODES, kind)
        plain = replay.sequence_shapes(SPEC, replay.StoredFields(1), CODES)
        size = replay.sequence_bytes(shapes)
        assert size == replay.sequence_bytes(plain) + extra
        state = ring(kind, 5).init()
        assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == 5 * size
