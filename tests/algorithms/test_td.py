"""Agent and mixer trained by temporal differences of the joint value."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import samples
import tabular

from qmix_jax import components
from qmix_jax.envs import two_step
from qmix_jax.mixers import base as mixers
from qmix_jax.mixers import qmix, vdn

HPARAMS = samples.hparams(reward_scale=2.0, gamma=0.9, huber_delta=4.0)


@pytest.mark.parametrize("mixer", ["vdn", "qmix"])
@pytest.mark.parametrize("options", [{}, {"double_q": False}, {"loss": "huber"}], ids=str)
def test_agrees_with_loops(agrees_with_loops, mixer, options):
    agrees_with_loops("td", mixer, **options)


def test_harutyunyans_target_mixes_the_executed_actions(agrees_with_loops):
    agrees_with_loops("td", "qmix", target="harutyunyan")


def _vdn(one_step, **options):
    mixer = vdn.make(vdn.Config(), one_step.spec)
    return samples.algorithm("td", options, one_step.agent, mixer, one_step.spec)


def _loss(algo, batch, target_scale):
    params = {"agent": {"scale": jnp.float32(1.0)}, "mixer": {}}
    target_params = {"agent": {"scale": jnp.float32(target_scale)}, "mixer": {}}
    return samples.loss(algo)(params, target_params, batch, HPARAMS)


def test_vdn_by_hand(one_step):
    """The online network selects actions 1 and 1, which the target network values 10 and -20:
    y = 2 * 0.5 + 0.9 * (10 - 20) = -8, and the value is 1 + 2."""
    loss, extras = _loss(_vdn(one_step), one_step.batch(), 10.0)
    np.testing.assert_allclose(extras.metrics["target"], (-8.0, 1.0), rtol=1e-6)
    np.testing.assert_allclose(extras.metrics["q_taken"], (3.0, 1.0), rtol=1e-6)
    np.testing.assert_allclose(extras.priority, [11.0], rtol=1e-6)
    np.testing.assert_allclose(loss, 121.0, rtol=1e-6)


@pytest.mark.parametrize(("double_q", "target"), [(True, 10.0), (False, 19.0)])
def test_the_selecting_network_by_hand(one_step, double_q, target):
    """Scaled by -10 the target network values (-40 unavailable, -10) and (30, 20): its own choice
    is 30, the online network's 20. y = 1 + 0.9 * (-10 + 20) or 1 + 0.9 * (-10 + 30)."""
    _, extras = _loss(_vdn(one_step, double_q=double_q), one_step.batch(), -10.0)
    np.testing.assert_allclose(extras.metrics["target"], (target, 1.0), rtol=1e-6)


def test_a_termination_cuts_the_bootstrap_and_a_time_limit_does_not(one_step):
    """The same step: truncated, its successor is stored and counts; terminated, only the reward."""
    _, truncated = _loss(_vdn(one_step), one_step.batch(terminated=False), 10.0)
    _, terminated = _loss(_vdn(one_step), one_step.batch(terminated=True), 10.0)
    np.testing.assert_allclose(truncated.metrics["target"], (-8.0, 1.0), rtol=1e-6)
    np.testing.assert_allclose(terminated.metrics["target"], (1.0, 1.0), rtol=1e-6)


def test_huber_by_hand(one_step):
    """Error 11, delta 4: 4 * (22 - 4)."""
    loss, _ = _loss(_vdn(one_step, loss="huber"), one_step.batch(), 10.0)
    np.testing.assert_allclose(loss, 72.0, rtol=1e-6)


def test_needs_a_mixer(one_step):
    with pytest.raises(ValueError, match=r"algo\.mixer\.name"):
        samples.algorithm("td", {}, one_step.agent, None, one_step.spec)


def test_inspect_mixes_the_utilities_of_the_taken_actions(one_step):
    mixer = qmix.make(qmix.Config(embed_dim=3, hypernet_embed=4), one_step.spec)
    algo = samples.algorithm("td", {}, one_step.agent, mixer, one_step.spec)
    params = {**samples.params(algo.init), "agent": {"scale": jnp.ones(())}}
    state = np.array([0.7], np.float32)
    obs = np.array([[1.0, 9.0], [-2.0, 3.0]], np.float32)
    actions = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    inspected = samples.at_start(algo, params, obs, state, actions)
    summed = samples.at_start(_vdn(one_step), {**params, "mixer": {}}, obs, state, actions)
    np.testing.assert_allclose(summed["q_tot"], [-1.0, 4.0, 7.0, 12.0], rtol=1e-6)
    weights = oracles.double(params["mixer"])
    expected = [oracles.qmix(weights, [obs[0, i], obs[1, j]], state) for i, j in actions]
    np.testing.assert_allclose(inspected["q_tot"], expected, rtol=1e-4)
    np.testing.assert_array_equal(inspected["utilities"], np.broadcast_to(obs, (4, 2, 2)))


@pytest.mark.parametrize(("target_scale", "target"), [(-10.0, 19.0), (10.0, -8.0)])
def test_the_target_mixer_sees_its_own_networks_best_utilities(one_step, target_scale, target):
    """Scaled by -10 they are -10 and 30 (the selected action has 20): y = 1 + 0.9 * (-10 + 30).
    Scaled by 10 they are 10 (40 is unavailable) and -20: y = 1 + 0.9 * (10 - 20)."""
    best = mixers.Mixer(
        init=lambda key: {},
        apply=lambda params, inputs: mixers.without_penalty(jnp.sum(inputs.q_greedy, axis=-1)),
        monotonic=False,
        igm=False,
    )
    algo = samples.algorithm("td", {}, one_step.agent, best, one_step.spec)
    _, extras = _loss(algo, one_step.batch(), target_scale)
    np.testing.assert_allclose(extras.metrics["target"], (target, 1.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("mixer", "options", "greedy_return"),
    [("vdn", {}, 7), ("vdn_s", {"embed_dim": 8}, 7), ("qmix_ns", {"embed_dim": 8}, 8)],
)
def test_greedy_returns_of_the_two_step_game(mixer, options, greedy_return):
    """Additive values stay at their least-squares fit of 2B, whose best entry 6.5 is less than the
    7 of 2A; a value of the state is no help. One monotonic function for all states is enough."""
    env = two_step.make(two_step.Config())
    module = components.find("mixers", mixer)
    mixing = module.make(module.Config(**options), env.spec)
    algo = tabular.algorithm("td", {}, env.spec, mixing)
    batch, hparams = tabular.every_play(env, 2), tabular.hparams(0.03, 2_000)

    def learn(key):
        params = tabular.learn(algo, batch, hparams, 2_000, key)
        return tabular.tables(algo, params, env.game.decision_points)

    learned = samples.jit(jax.vmap(learn))(jax.random.split(jax.random.key(0), 4))
    for point, table in zip(env.game.decision_points, learned, strict=True):
        exact = point.optimal if greedy_return == 8 else point.exact["additive"]
        np.testing.assert_allclose(table, np.broadcast_to(exact, table.shape), atol=1e-2)
    first, _, last = (np.asarray(table) for table in learned)
    enters_2b = first.max(axis=2).argmax(axis=1)
    greedy = last.reshape(4, -1).argmax(axis=1)
    payoff = env.game.decision_points[2].optimal.ravel()[greedy]
    np.testing.assert_array_equal(np.where(enters_2b, payoff, 7.0), greedy_return)
