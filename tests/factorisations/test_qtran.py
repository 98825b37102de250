"""QTRAN, both variants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples

from qmix_jax.factorisations import qtran
from qmix_jax.mixers import vdn

variants = pytest.mark.parametrize("variant", ["base", "alt"])
HPARAMS = samples.hparams(gamma=0.9, reward_scale=1.0)


@variants
def test_agrees_with_loops(agrees_with_loops, variant):
    """Also where gradients stop: the loops hold Q_jt still in the two bounds, and V_jt not."""
    agrees_with_loops("qtran", None, variant=variant, target="harutyunyan")


def _bound(variant, q, v, q_jt, actions, avail):
    arrays = (jnp.array(x, jnp.float32) for x in (q, v, q_jt))
    return qtran._VARIANTS[variant].violation(*arrays, jnp.array(actions), jnp.array(avail))


def test_the_bounds_by_hand():
    """Utilities (1, 4) and (2, 3), V = 0.5, actions (0, 1): the sum is 4.5. Below Q_jt = 6 by 1.5
    and above 4. In `alt` agent 0's gaps are 4.5 - 5 and 7.5 - 4 (unavailable: 7.5 - 9), agent 1's
    3.5 - 1 and 4.5 - 3."""
    q, v, actions = [[1, 4], [2, 3]], [0.5], [0, 1]
    avail = [[True, False], [True, True]]
    everything = np.ones((2, 2), bool)
    np.testing.assert_allclose(_bound("base", q, v, [6], actions, avail), [-1.5])
    np.testing.assert_allclose(_bound("base", q, v, [4], actions, avail), [0.0])
    heads = [[5, 9], [1, 3]]
    np.testing.assert_allclose(_bound("alt", q, v, heads, actions, avail), [-0.5, 1.5])
    np.testing.assert_allclose(_bound("alt", q, v, heads, actions, everything), [-1.5, 1.5])


def _made(one_step, variant):
    cfg = qtran.Config(variant=variant, hidden=3, layers=1)
    made = qtran.make(cfg, one_step.spec, one_step.agent, None)
    trees = (samples.params(made.init, seed) for seed in (0, 1))
    # The stand-in for an agent has one parameter, of which no gradient rule knows a width.
    return made, *({**tree, "agent": {"scale": jnp.float32(1.0)}} for tree in trees)


def _gradient(one_step, variant, lambda_opt, lambda_nopt):
    made, params, target_params = _made(one_step, variant)
    algo = {"lambda_opt": jnp.float32(lambda_opt), "lambda_nopt": jnp.float32(lambda_nopt)}
    inputs = target_params, one_step.batch(), HPARAMS.replace(algo=algo), KEY
    return jax.grad(made.loss, has_aux=True)(params, *inputs)


KEY = jax.random.key(0)


@variants
def test_td_trains_the_joint_value_and_the_agents_but_not_v(one_step, variant):
    gradient, _ = _gradient(one_step, variant, 0.0, 0.0)
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(gradient["value"]))
    assert any(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient["critic"]))
    assert np.abs(gradient["agent"]["scale"]) > 0  # through the hidden states


@variants
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)], ids=["opt", "nopt"])
def test_the_bounds_train_utilities_and_v_but_not_the_joint_value(one_step, variant, weights):
    td, _ = _gradient(one_step, variant, 0.0, 0.0)
    both, extras = _gradient(one_step, variant, *weights)
    bound = jax.tree.map(lambda a, b: np.abs(a - b).max(), both, td)
    assert sum(extras.metrics[name][0] for name in ("loss_opt", "loss_nopt")) > 0
    assert max(jax.tree.leaves(bound["critic"])) == 0
    assert max(jax.tree.leaves(bound["value"])) > 0 and bound["agent"]["scale"] > 0


@variants
def test_the_target_is_the_target_networks_joint_value_of_the_online_choice(one_step, variant):
    """Only actions (1, 1) can follow: action 0 is unavailable to the first agent, worse for the
    second. The successor's state and observation are those of the batch."""
    made, params, target_params = _made(one_step, variant)
    batch = one_step.batch()
    _, extras = made.loss(params, target_params, batch, HPARAMS, KEY)
    obs, state = batch.trajectory.obs[1, 0], batch.trajectory.state[1, 0]
    everything, following = jnp.ones((2, 2), bool), jnp.array([[1, 1]])
    value = made.unrestricted_values(target_params, obs, state, everything, following)
    summed, count = extras.metrics["target"]
    np.testing.assert_allclose(summed / count, 0.5 + 0.9 * value[0], rtol=1e-5)


@variants
def test_joint_values_are_the_sum_of_utilities_and_v(one_step, variant):
    """Greedy for the utilities, so `act` takes their best joint action."""
    made, params, _ = _made(one_step, variant)
    obs, state = jnp.array([[1.0, 9.0], [-2.0, 3.0]]), jnp.array([0.7])
    actions, everything = jnp.array([[0, 0], [0, 1], [1, 0], [1, 1]]), jnp.ones((2, 2), bool)
    values = jax.jit(made.joint_values)(params, obs, state, everything, actions)
    np.testing.assert_allclose(values - values[0], [0.0, 5.0, 8.0, 13.0], rtol=1e-5)
    other = made.unrestricted_values(params, obs, state, everything, actions)
    assert other.shape == (4,) and np.ptp(other - values) > 0.1


def test_refuses_a_mixer(one_step):
    with pytest.raises(ValueError, match=r"algo\.mixer=null"):
        mixer = vdn.make(vdn.Config(), one_step.spec)
        qtran.make(qtran.Config(), one_step.spec, one_step.agent, mixer)


@variants
def test_matrix_games_are_solved_where_their_payoff_is_learnt(play_matrix_games, variant):
    """Every seed whose Q_jt has the payoff finds the optimum that penalties hide, and its sum of
    utilities bounds Q_jt from above and meets it on the best actions."""
    options = {"variant": variant, "hidden": 32}
    played = play_matrix_games("qtran", options, None, 2e-3)
    for game in played:
        exact = np.abs(game.unrestricted - game.payoff).max(axis=(1, 2)) < 0.5
        assert exact.mean() > 0.7
        np.testing.assert_array_equal(game.greedy[exact], 8.0)
        gap = game.joint[exact] - game.payoff
        assert gap.min() > -0.3
        assert np.abs(gap[:, 0, 0]).max() < 0.3
