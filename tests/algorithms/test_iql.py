"""Independent Q-learning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples
import tabular

from qmix_jax.envs import matrix, two_step
from qmix_jax.mixers import vdn


@pytest.mark.parametrize(
    "options", [{}, {"double_q": False}, {"loss": "huber"}, {"target": "watkins"}], ids=str
)
def test_agrees_with_loops(agrees_with_loops, options):
    agrees_with_loops("iql", None, **options)


def test_by_hand(one_step):
    """Every agent regresses the team reward: y = 2 * 0.5 + 0.9 * 10 = 10 for the value 1, and
    1 + 0.9 * -20 = -17 for the value 2; the loss is the mean over agents."""
    algo = samples.algorithm("iql", {}, one_step.agent, None, one_step.spec)
    params, target_params = ({"agent": {"scale": jnp.float32(scale)}} for scale in (1.0, 10.0))
    hparams = samples.hparams(reward_scale=2.0, gamma=0.9)
    loss, extras = samples.loss(algo)(params, target_params, one_step.batch(), hparams)
    np.testing.assert_allclose(extras.metrics["target"], (10.0 - 17.0, 2.0), rtol=1e-6)
    np.testing.assert_allclose(loss, (9.0**2 + 19.0**2) / 2.0, rtol=1e-6)
    np.testing.assert_allclose(extras.priority, [19.0], rtol=1e-6)


def test_refuses_a_mixer_and_has_no_joint_value(one_step):
    algo = samples.algorithm("iql", {}, one_step.agent, None, one_step.spec)
    params = {"agent": {"scale": jnp.ones(())}}
    inspected = samples.at_start(algo, params, jnp.ones((2, 2)), jnp.zeros(1), np.zeros((1, 2)))
    assert set(inspected) == {"utilities"}
    with pytest.raises(ValueError, match=r"algo\.mixer=null"):
        mixer = vdn.make(vdn.Config(), one_step.spec)
        samples.algorithm("iql", {}, one_step.agent, mixer, one_step.spec)


@pytest.mark.parametrize(
    ("env", "steps", "utilities"),
    [
        (matrix.make(matrix.Config(game="Q3")), 1, [[[-16 / 3, -4, -4]] * 2]),
        (
            two_step.make(two_step.Config()),
            2,
            [[[6.93, 4.455], [5.6925, 5.6925]], [[7, 7]] * 2, [[0.5, 4.5]] * 2],
        ),
    ],
    ids=["Q3", "two steps"],
)
def test_utilities_converge_to_means_over_the_actions_of_others(env, steps, utilities):
    """And over the values after their best action: 0.99 * (7 + 4.5) / 2 for the second agent, whose
    first action has no effect."""
    algo = tabular.algorithm("iql", {}, env.spec, None)
    batch, hparams = tabular.every_play(env, steps), tabular.hparams(0.03, 2_000)
    learn = samples.jit(lambda key: tabular.learn(algo, batch, hparams, 2_000, key))
    params = learn(jax.random.key(0))
    joint = np.zeros((1, 2), int)
    for point, expected in zip(env.game.decision_points, utilities, strict=True):
        inspected = samples.at_start(algo, params, point.obs, point.state, joint)
        np.testing.assert_allclose(inspected["utilities"][0], expected, atol=1e-2)
