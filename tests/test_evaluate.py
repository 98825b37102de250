"""Evaluation counts exactly the first episode of each environment."""

import jax
import jax.numpy as jnp
import numpy as np
from toys import constant, counting, members

from qmix_jax import evaluate, rollout


def first_action(carry, seen, key):
    del key
    return carry, jnp.argmax(seen.avail_actions, axis=-1).astype(jnp.int32), {}


FIRST = rollout.BoundPolicy(first_action)


def setup(env, n_envs):
    return rollout.CollectorSetup(
        env, lambda n: {"act": (), "learn": ()}, rollout.Recording(), n_envs
    )


def test_means_over_exactly_the_first_episode_of_each_environment():
    env = counting.make(counting.Config(limit=5, longest=9))
    key, n = jax.random.key(5), 40
    result = jax.jit(lambda k: evaluate.evaluate(setup(env, n), FIRST, k))(key)
    start = setup(env, n).start(jax.random.split(key)[0])
    lengths = np.minimum(np.asarray(start.env_state["length"]), 5)
    assert len(set(lengths)) > 2
    np.testing.assert_allclose(result["length"], lengths.mean(), rtol=1e-6)
    np.testing.assert_allclose(result["return"], (lengths * (lengths + 1) / 2).mean(), rtol=1e-6)
    np.testing.assert_allclose(result["last_step"], lengths.mean(), rtol=1e-6)


def test_recorded_episodes_are_the_evaluated_episodes():
    env = counting.make(counting.Config(limit=5, longest=9))
    key, n = jax.random.key(5), 40
    result = jax.jit(lambda k: evaluate.evaluate(setup(env, n), FIRST, k))(key)
    episodes = jax.jit(
        lambda k: evaluate.record_episodes(setup(env, n), FIRST, k, lambda state: state["step"])
    )(key)
    lengths = np.asarray(episodes.valid).sum(axis=0)
    assert episodes.extracted.shape == (6, 40) and len(set(lengths)) > 2
    np.testing.assert_array_equal(episodes.extracted[lengths, np.arange(n)], lengths)
    ends = (lengths - 1, np.arange(n))
    assert (np.asarray(episodes.terminated) | np.asarray(episodes.truncated))[ends].all()
    returned = np.where(episodes.valid, episodes.reward, 0.0).sum(axis=0)
    np.testing.assert_allclose(result["return"], returned.mean(), rtol=1e-6)
    last = np.asarray(episodes.metrics["last_step"])[ends]
    np.testing.assert_allclose(result["last_step"], last.mean(), rtol=1e-6)


def test_a_time_limit_ends_the_episode_at_exactly_the_limit():
    env = constant.make(constant.Config(length=4, truncates=True))
    result = evaluate.evaluate(setup(env, 3), FIRST, jax.random.key(0))
    assert (float(result["return"]), float(result["length"])) == (4.0, 4.0)


def test_evaluation_is_greedy_and_does_not_change_training():
    trained = members.train(members.small(), calls=(3,))
    before = [x.copy() for x in members.leaves(trained.states[0])]
    first = trained.members.evaluate(trained.states, 3)
    again = trained.members.evaluate(trained.states, 3)
    other = trained.members.evaluate(trained.states, 4)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert any(not np.array_equal(first[name], other[name]) for name in first), "fresh episodes"
    for old, new in zip(before, members.leaves(trained.states[0]), strict=True):
        np.testing.assert_array_equal(old, new)
