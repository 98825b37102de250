"""Targets of every kind, over values from a table instead of networks."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import samples

from qmix_jax.algorithms import base
from qmix_jax.core import qvalues
from qmix_jax.types import Batch, Trajectory

KINDS = ("peng", "watkins", "harutyunyan", "n_step")
HPARAMS = samples.hparams(td_lambda=0.6)

kinds = pytest.mark.parametrize("kind", KINDS)
agreement = pytest.mark.parametrize("independent", [True, False], ids=["agents", "joint"])


def _tables(batch, seed=4):
    """Utilities of a target network [T+1, B, N, A], and selected actions [T+1, B, N], half of them
    the executed ones."""
    rng = np.random.default_rng(seed)
    trajectory = batch.trajectory
    utilities = samples.normal(rng, *trajectory.avail_actions.shape)
    best = np.argmax(np.where(trajectory.avail_actions, utilities, -np.inf), axis=-1)
    executed = np.concatenate([trajectory.actions, best[-1:]])
    same = rng.random(best.shape) < 0.6
    return utilities, np.where(same, executed, best).astype(np.int32)


def _target(kind, independent, batch, utilities, best, n=3, hparams=HPARAMS):
    """f32[T, B, N], the value of each agent, or f32[T, B], their sum."""

    def value(actions):
        taken = qvalues.take(jnp.asarray(utilities)[1:], actions)
        return taken if independent else jnp.sum(taken, axis=-1)

    cfg = base.TargetConfig(target=kind, n_step=n)
    return base.target(cfg, batch, hparams, jnp.asarray(best)[1:], value, independent)


@kinds
@agreement
@pytest.mark.parametrize("form", samples.FORMS)
def test_agrees_with_a_loop_where_valid(kind, independent, form):
    batch = samples.batch(form)
    utilities, best = _tables(batch)

    def value(t, b, actions):
        taken = oracles.take(utilities[t, b], actions)
        return taken if independent else [sum(taken)]

    where = lambda t, b: best[t, b]  # noqa: E731
    expected = oracles.targets(batch.trajectory, HPARAMS, value, where, kind, 3, independent)
    target = _target(kind, independent, batch, utilities, best)
    assert target.shape == best[1:].shape[: 3 if independent else 2]
    valid = batch.trajectory.valid
    np.testing.assert_allclose(
        np.asarray(target).reshape(expected.shape)[valid], expected[valid], rtol=1e-4, atol=1e-5
    )


@agreement
@pytest.mark.parametrize("form", samples.FORMS)
def test_kinds_differ_but_are_one_step_at_lambda_zero_or_n_one(independent, form):
    batch = samples.batch(form)
    inputs = (independent, batch, *_tables(batch))
    valid = batch.trajectory.valid
    targets = [np.asarray(_target(kind, *inputs))[valid] for kind in KINDS]
    zero = samples.hparams(td_lambda=0.0)
    one_step = [np.asarray(_target(kind, *inputs, n=1, hparams=zero))[valid] for kind in KINDS]
    for i in range(len(KINDS)):
        np.testing.assert_allclose(one_step[i], one_step[0], rtol=1e-6)
        assert np.abs(targets[i] - one_step[0]).max() > 0.1
        assert all(np.abs(targets[i] - targets[j]).max() > 0.05 for j in range(i))


@kinds
@agreement
@pytest.mark.parametrize("form", samples.FORMS)
@pytest.mark.parametrize("poison", [np.nan, np.inf, 7.0])
def test_contents_of_invalid_steps_change_no_valid_target(kind, independent, form, poison):
    """Reward, value and actions of every entry that no valid step depends on."""
    batch = samples.batch(form)
    utilities, best = _tables(batch)
    valid, terminated = batch.trajectory.valid, batch.trajectory.terminated
    before = np.asarray(_target(kind, independent, batch, utilities, best))[valid]
    other = samples.with_other_invalid_contents(batch)
    needed = np.zeros(batch.trajectory.reset.shape, bool)
    needed[:-1] |= valid
    needed[1:] |= valid & ~terminated
    utilities = np.where(needed[..., None, None], utilities, np.float32(poison))
    best = np.where(needed[..., None], best, 1 - best.clip(max=1)).astype(np.int32)
    reward = np.where(valid, other.trajectory.reward, np.float32(poison))
    other = other.replace(trajectory=other.trajectory.replace(reward=reward))
    after = np.asarray(_target(kind, independent, other, utilities, best))[valid]
    np.testing.assert_array_equal(after, before)


@kinds
def test_nothing_leaks_from_a_truncated_step_or_the_next_episode(kind):
    """Reward 1, gamma 0.9, value 10 everywhere and 100 in the next episode: each target is 10; the
    unguarded recursion gives 26.4 and 46.5."""
    n_steps, shape = 4, (4, 1)
    rows = lambda *values: np.array(values)[:, None]  # noqa: E731
    trajectory = Trajectory(
        obs=np.zeros((n_steps + 1, 1, 1, 1), np.float32),
        state=np.zeros((n_steps + 1, 1, 1), np.float32),
        avail_actions=np.ones((n_steps + 1, 1, 1, 1), bool),
        reset=rows(True, False, False, True, False),
        actions=np.zeros((n_steps, 1, 1), np.int32),
        reward=np.ones(shape, np.float32),
        terminated=np.zeros(shape, bool),
        valid=rows(True, True, False, True),
    )
    batch = Batch(trajectory=trajectory, weight=np.ones(1), index=np.zeros(1, np.int32))
    utilities = rows(10.0, 10.0, 10.0, 100.0, 100.0)[..., None, None].astype(np.float32)
    best = np.zeros((n_steps + 1, 1, 1), np.int32)
    hparams = samples.hparams(gamma=0.9, td_lambda=0.8, reward_scale=1.0)
    target = _target(kind, False, batch, utilities, best, n=4, hparams=hparams)
    np.testing.assert_allclose(target[:2, 0], 10.0, rtol=1e-6)


@kinds
def test_only_harutyunyans_target_values_the_executed_actions(kind):
    """The others need one evaluation of the target network's value, and no branch."""
    batch = samples.batch("segment")
    _, best = _tables(batch)
    calls = []

    def value(actions):
        calls.append(actions)
        return jnp.sum(actions, axis=-1, dtype=jnp.float32)

    cfg = base.TargetConfig(target=kind)
    text = str(
        jax.make_jaxpr(lambda x: base.target(cfg, batch, HPARAMS, x, value))(jnp.asarray(best[1:]))
    )
    assert len(calls) == (2 if kind == "harutyunyan" else 1)
    assert "cond[" not in text
