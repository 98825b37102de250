"""Collectors against loops over what they must have seen."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import counting

from qmix_jax import rollout

B, T = 6, 23


def counting_act(carry, obs, prev_actions, reset, avail_actions, key):
    """Actions count up within an episode: 0, 1, 2, 0, ...; the carry counts steps since a reset."""
    del obs, avail_actions, key
    carry = jnp.where(reset, 0, carry + 1)
    return carry, (prev_actions + 1) % 3


def collect(make, window=T, longest=7):
    env = counting.make(counting.Config(limit=5, longest=longest))
    collector = make(env, lambda batch: jnp.zeros((batch,), jnp.int32), B, window)
    actor = collector.init(jax.random.key(1))
    _, trajectory, metrics = jax.jit(lambda key: collector.collect(key, actor, counting_act))(
        jax.random.key(0)
    )
    return jax.tree.map(np.asarray, trajectory), jax.tree.map(np.asarray, metrics)


def episodes_of(trajectory, b):
    """(first, last) steps of the whole episodes in sequence b, found from `reset` alone."""
    starts = [t for t in range(T + 1) if trajectory.reset[t, b]]
    return [(s, e - 1) for s, e in itertools.pairwise(starts)]


def test_segment_fills_the_window_with_whole_episodes_and_resets_between():
    trajectory, _ = collect(rollout.make_segment)
    assert trajectory.obs.shape == (T + 1, B, 2, 2)
    assert trajectory.reset[0].all()
    n_truncated = n_terminated = 0
    for b in range(B):
        for t in range(T):
            episode, step = trajectory.obs[t, b, 0]
            following = trajectory.obs[t + 1, b, 0]
            assert trajectory.reward[t, b] == step + 1
            if trajectory.reset[t + 1, b]:
                assert following[0] != episode and following[1] == 0
                if trajectory.terminated[t, b]:
                    n_terminated += 1
                    assert trajectory.valid[t, b]
                else:
                    n_truncated += 1
                    assert step + 1 == 5, "only the limit truncates"
                    assert not trajectory.valid[t, b], "its successor is not stored"
            else:
                assert following[0] == episode and following[1] == step + 1
                assert trajectory.valid[t, b] and not trajectory.terminated[t, b]
    assert n_truncated > 3 and n_terminated > 3


def test_segment_gives_minus_one_as_last_action_at_the_start_of_every_episode():
    trajectory, _ = collect(rollout.make_segment)
    steps = trajectory.obs[:-1, :, 0, 1].astype(int)
    np.testing.assert_array_equal(trajectory.actions, np.stack([steps % 3] * 2, axis=-1))


def test_episode_keeps_one_episode_and_its_true_final_observation():
    trajectory, _ = collect(rollout.make_episode)
    ends = []
    for b in range(B):
        length = int(trajectory.valid[:, b].sum())
        ends.append(bool(trajectory.terminated[length - 1, b]))
        assert trajectory.valid[:length, b].all() and not trajectory.valid[length:, b].any()
        assert trajectory.reset[0, b] and not trajectory.reset[1:, b].any()
        np.testing.assert_array_equal(trajectory.obs[: length + 1, b, 0, 1], np.arange(length + 1))
        final = trajectory.obs[length, b]
        np.testing.assert_array_equal(
            trajectory.obs[length:, b], np.broadcast_to(final, (T + 1 - length, 2, 2))
        )
        assert trajectory.obs[0, b, 0, 0] == final[0, 0], (
            "the final observation is the same episode's"
        )
        assert length == 5 or ends[-1]
    assert any(ends) and not all(ends), "both kinds of end occur"


@pytest.mark.parametrize("make", [rollout.make_segment, rollout.make_episode])
def test_episode_statistics_count_whole_episodes_only(make):
    trajectory, metrics = collect(make)
    lengths = []
    for b in range(B):
        if make is rollout.make_episode:
            lengths.append(int(trajectory.valid[:, b].sum()))
        else:
            lengths += [last - first + 1 for first, last in episodes_of(trajectory, b)]
    returns = [n * (n + 1) / 2 for n in lengths]
    for name, values in {"return": returns, "length": lengths, "last_step": lengths}.items():
        total, count = metrics[f"rollout/{name}"]
        assert (float(total), int(count)) == (sum(values), len(values)), name
    total, count = metrics["rollout/valid_fraction"]
    assert (int(total), int(count)) == (trajectory.valid.sum(), T * B)


@pytest.mark.parametrize("make", [rollout.make_segment, rollout.make_episode])
def test_an_unavailable_action_is_never_stored_under_a_random_policy(make):
    from qmix_jax.core import exploration

    env = counting.make(counting.Config())
    collector = make(env, lambda batch: jnp.zeros((batch, 0)), B, T)

    def act(carry, obs, prev_actions, reset, avail_actions, key):
        return carry, exploration.uniform_available(key, avail_actions)

    _, trajectory, _ = collector.collect(jax.random.key(3), (), act)
    chosen = np.take_along_axis(
        np.asarray(trajectory.avail_actions[:-1]), np.asarray(trajectory.actions)[..., None], -1
    )[..., 0]
    assert chosen[np.asarray(trajectory.valid)].all()
