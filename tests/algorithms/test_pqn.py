"""Agent and mixer without target network or replay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples

from qmix_jax.mixers import vdn
from qmix_jax.types import Batch, Trajectory


@pytest.mark.parametrize(("mixer", "loss"), [("vdn", "mse"), ("qmix", "mse"), ("qmix", "huber")])
def test_agrees_with_loops(agrees_with_loops, mixer, loss):
    """Temporal differences whose target network is the online one, without gradient."""
    agrees_with_loops("pqn", mixer, loss=loss)


def _pqn(one_step):
    mixer = vdn.make(vdn.Config(), None)
    return samples.algorithm("pqn", {}, one_step.agent, mixer, one_step.spec)


def _loss(one_step, batch, scale=1.0, **values):
    """Loss, extras and derivative with respect to the utilities' factor."""
    hparams = samples.hparams(**{"reward_scale": 2.0, "gamma": 0.9, **values})
    params = {"agent": {"scale": jnp.float32(scale)}, "mixer": {}}
    by_params = jax.jit(jax.value_and_grad(samples.loss(_pqn(one_step)), has_aux=True))
    (loss, extras), gradient = by_params(params, {}, batch, hparams)
    return loss, extras, gradient["agent"]["scale"]


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_target_moves_with_the_parameters_and_takes_no_gradient(one_step, scale):
    """y = 2 * 0.5 + 0.9 * scale * (1 - 2): the best available actions, of the learnt parameters.
    The value is 3 * scale, so that (3 scale - y)^2 has the slope 6 (3 scale - y) for a fixed y."""
    loss, extras, slope = _loss(one_step, one_step.batch(), scale)
    target = 1.0 - 0.9 * scale
    error = 3.0 * scale - target
    np.testing.assert_allclose(extras.metrics["target"], (target, 1.0), rtol=1e-5)
    np.testing.assert_allclose(extras.metrics["q_taken"], (3.0 * scale, 1.0), rtol=1e-6)
    np.testing.assert_allclose(extras.priority, [error], rtol=1e-5)
    np.testing.assert_allclose(loss, error**2, rtol=1e-5)
    np.testing.assert_allclose(slope, 6.0 * error, rtol=1e-5)


def _two_episodes():
    """One of two steps that terminates, and the beginning of one that the sequence cuts off; the
    agents' best utilities sum to 2, 4, 6, 8 at the four entries, and the rewards are 1, 3, 5."""
    best = jnp.array([1.0, 2.0, 3.0, 4.0])
    obs = jnp.stack([best, best - 1.0], axis=-1)
    trajectory = Trajectory(
        obs=jnp.broadcast_to(obs[:, None, None], (4, 1, 2, 2)),
        state=jnp.zeros((4, 1, 1)),
        avail_actions=jnp.ones((4, 1, 2, 2), bool),
        reset=jnp.array([[True], [False], [True], [False]]),
        actions=jnp.zeros((3, 1, 2), jnp.int32),
        reward=jnp.array([[1.0], [3.0], [5.0]]),
        terminated=jnp.array([[False], [True], [False]]),
        valid=jnp.ones((3, 1), bool),
    )
    return Batch(trajectory=trajectory, weight=jnp.ones(1), index=jnp.zeros(1, jnp.int32))


@pytest.mark.parametrize(
    ("td_lambda", "targets"),
    [
        (0.0, (1.0 + 0.5 * 4.0, 3.0, 5.0 + 0.5 * 8.0)),
        (1.0, (1.0 + 0.5 * 3.0, 3.0, 5.0 + 0.5 * 8.0)),
        (0.5, (1.0 + 0.5 * 3.5, 3.0, 5.0 + 0.5 * 8.0)),
    ],
)
def test_from_one_step_to_monte_carlo_by_hand(one_step, td_lambda, targets):
    """The finished episode's targets are its returns at lambda 1; the last step of the sequence
    bootstraps from the entry stored after it."""
    values = {"reward_scale": 1.0, "gamma": 0.5, "td_lambda": td_lambda}
    loss, extras, _ = _loss(one_step, _two_episodes(), **values)
    errors = np.array([2.0, 4.0, 6.0]) - targets
    np.testing.assert_allclose(extras.metrics["target"], (sum(targets), 3.0), rtol=1e-6)
    np.testing.assert_allclose(loss, np.mean(errors**2), rtol=1e-6)
    np.testing.assert_allclose(extras.priority, np.abs(errors).max(keepdims=True), rtol=1e-6)


def test_unrolls_the_agent_once():
    """The values of the target come from the forward pass of the loss."""
    calls = []
    agent = samples.component("agents", "mlp")
    counted = agent._replace(unroll=lambda *args: calls.append(1) or agent.unroll(*args))
    mixer = samples.component("mixers", "qmix")
    algo = samples.algorithm("pqn", {}, counted, mixer)
    params = samples.params(algo.init)
    jax.eval_shape(samples.loss(algo), params, {}, samples.batch("segment"), samples.hparams())
    assert calls == [1]


def test_has_no_target_network_and_needs_a_mixer(one_step):
    algo = _pqn(one_step)
    assert algo.learner.init(algo.init(jax.random.key(0))).target_params == {}
    with pytest.raises(ValueError, match=r"algo\.mixer\.name"):
        samples.algorithm("pqn", {}, one_step.agent, None, one_step.spec)
