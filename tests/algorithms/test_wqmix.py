"""Weighted QMIX: centrally (CW) and optimistically (OW)."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import samples
import tabular

from qmix_jax.agents import base as agents
from qmix_jax.algorithms import base, wqmix
from qmix_jax.critics import base as critics
from qmix_jax.mixers import qmix_ns, vdn
from qmix_jax.types import Batch, SequenceStart, Trajectory

weightings = pytest.mark.parametrize("weighting", ["centrally", "optimistically"])
KEY = jax.random.key(0)


@weightings
def test_agrees_with_loops(agrees_with_loops, weighting):
    agrees_with_loops("wqmix", "qmix", weighting=weighting, target="harutyunyan")


def _seen(**changes):
    """Underestimated by Q_tot; not better than Q* of the best actions."""
    values = {"target": 3.0, "q_tot": 2.0, "q_star_best": 4.0, "all_best": False, **changes}
    return wqmix._WeightInputs(**jax.tree.map(jnp.asarray, values))


@pytest.mark.parametrize(
    ("changes", "centrally", "optimistically"),
    [
        ({}, False, True),
        ({"q_tot": 3.5}, False, False),
        ({"q_star_best": 2.5}, True, True),
        ({"q_star_best": 2.5, "q_tot": 3.5}, True, False),
        ({"all_best": True}, True, True),
        ({"all_best": True, "q_tot": 3.5}, True, False),
    ],
)
def test_weights_of_each_weighting(changes, centrally, optimistically):
    assert bool(wqmix._HAS_FULL_WEIGHT["centrally"](_seen(**changes))) == centrally
    assert bool(wqmix._HAS_FULL_WEIGHT["optimistically"](_seen(**changes))) == optimistically


class World(NamedTuple):
    """The world of one step with VDN as the monotonic mixer and Q* the sum of the central agents'
    utilities; `trees` are parameters and target parameters.

    Q_tot is 3 and Q* of the taken actions 6; the target's central agents have `target_scale`.
    """

    algo: base.Algorithm
    trees: tuple
    batch: Batch

    def loss(self, params):
        hparams = samples.hparams(reward_scale=2.0, gamma=0.9, algo={"alpha": 0.25})
        return samples.loss(self.algo)(params, self.trees[1], self.batch, hparams)


def make_world(one_step, weighting, target_scale=-1.0, choice=False):
    """With `choice` all actions are available at first, so that the taken ones are not the best."""
    options = {"weighting": weighting, "central_hidden": 2, "central_layers": 1}
    mixer = vdn.make(vdn.Config(), one_step.spec)
    algo = samples.algorithm("wqmix", options, one_step.agent, mixer, one_step.spec)
    # One hidden layer lets positive and negative sums pass; the state is no use.
    central = jax.tree.map(jnp.zeros_like, algo.init(KEY)["central"])
    central["q"]["hidden_0"]["kernel"] = jnp.array([[0.0, 0.0], [1.0, -1.0], [1.0, -1.0]])
    central["q"]["output"]["kernel"] = jnp.array([[1.0], [-1.0]])

    def tree(scale, central_scale):
        agents = {"agent": scale, "central_agent": central_scale}
        scales = {name: {"scale": jnp.float32(value)} for name, value in agents.items()}
        return {**scales, "mixer": {}, "central": central}

    batch = one_step.batch()
    if choice:
        avail = batch.trajectory.avail_actions.at[0].set(True)
        batch = batch.replace(trajectory=replace(batch.trajectory, avail_actions=avail))
    return World(algo, (tree(1.0, 2.0), tree(7.0, target_scale)), batch)


@pytest.mark.parametrize(("weighting", "weight"), [("centrally", 1.0), ("optimistically", 0.25)])
def test_both_losses_share_the_target_of_the_central_target_network(one_step, weighting, weight):
    """The online agents select actions 1 and 1, worth 1 and -2: to central target agents scaled by
    -1 that is y = 2 * 0.5 + 0.9 * 1 = 1.9. Q_tot = 3 is off by 1.1, Q* of the taken actions by 4.1.
    Those are the only available ones: full weight in CW. Q_tot is above y: alpha in OW."""
    world = make_world(one_step, weighting)
    loss_and_gradient = samples.jit(jax.value_and_grad(world.loss, has_aux=True))
    (loss, extras), gradient = loss_and_gradient(world.trees[0])
    metrics = {name: float(value) for name, (value, _) in extras.metrics.items()}
    np.testing.assert_allclose(metrics["target"], 1.9, rtol=1e-6)
    np.testing.assert_allclose(metrics["weight"], weight)
    np.testing.assert_allclose(metrics["loss_monotonic"], weight * 1.1**2, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_central"], 4.1**2, rtol=1e-5)
    np.testing.assert_allclose(loss, weight * 1.1**2 + 4.1**2, rtol=1e-5)
    np.testing.assert_allclose(extras.priority, [4.1], rtol=1e-5)
    # Q_tot is 3 times its agents' scale, and so is Q*; weights and target have no gradient.
    np.testing.assert_allclose(gradient["agent"]["scale"], weight * 2 * 1.1 * 3, rtol=1e-5)
    np.testing.assert_allclose(gradient["central_agent"]["scale"], 2 * 4.1 * 3, rtol=1e-5)


@pytest.mark.parametrize(
    ("weighting", "target_scale", "weight"),
    [
        # y = 1.9; the best actions are worth -18 to the target network and 36 to the online one
        ("centrally", -1.0, 1.0),
        # y = 1 - 0.9 * 0.1; the best actions are worth 1.8 and the taken ones 0.3
        ("centrally", 0.1, 0.25),
        # y = 1 + 0.9 * 4 is above Q_tot = 3 and below Q* = 6
        ("optimistically", -4.0, 1.0),
    ],
)
def test_weights_compare_with_the_right_value(one_step, weighting, target_scale, weight):
    world = make_world(one_step, weighting, target_scale, choice=True)
    _, extras = samples.jit(world.loss)(world.trees[0])
    np.testing.assert_allclose(extras.metrics["weight"], (weight, 1.0))


def _random_problem(weighting, agent, seed=0):
    algo = samples.algorithm(
        "wqmix",
        {"weighting": weighting, "central_hidden": 4, "central_layers": 1},
        samples.component("agents", agent, {"hidden": 6}),
        samples.component("mixers", "qmix", SMALL_QMIX),
    )
    return algo, samples.params(algo.init, seed)


SMALL_QMIX = {"embed_dim": 3, "hypernet_embed": 4}


@weightings
def test_alpha_one_is_qmix_and_an_inert_critic(weighting):
    """With gamma 0 both regress the reward: same loss, same gradient of agent and mixer, whatever
    the critic is."""
    algo, params = _random_problem(weighting, "mlp")
    agent, mixer = (samples.component("agents", "mlp", {"hidden": 6}), SMALL_QMIX)
    mixer = samples.component("mixers", "qmix", mixer)
    plain = samples.algorithm("td", {}, agent, mixer)
    batch, hparams = samples.batch("segment"), samples.hparams(gamma=0.0, algo={"alpha": 1.0})
    shared = {name: params[name] for name in ("agent", "mixer")}
    plain_gradient = samples.jit(jax.value_and_grad(samples.loss(plain), has_aux=True))
    (loss, _), expected_grads = plain_gradient(shared, shared, batch, hparams)
    _, other = _random_problem(weighting, "mlp", seed=5)
    gradient = samples.jit(jax.value_and_grad(samples.loss(algo), has_aux=True))
    for tree in (params, {**other, **shared}):
        (_, extras), grads = gradient(tree, other, batch, hparams)
        np.testing.assert_allclose(extras.metrics["loss_monotonic"][0], loss, rtol=1e-5)
        for name in shared:
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
                grads[name],
                expected_grads[name],
            )


def test_windows_continue_the_carries_of_both_agent_networks():
    """Cut in the middle of episodes, with what acting carried there: the loss of the whole sequence
    with only its end valid."""
    algo, params = _random_problem("centrally", "gru")
    batch, hparams, cut = samples.batch("segment"), samples.hparams(), 4
    full = batch.trajectory
    assert not full.reset[cut].any()
    act, accompany = samples.jit(algo.act), samples.jit(algo.accompany)
    carry, explore = algo.initial_carry(3), {"epsilon": jnp.float32(0.5)}
    observed = agents.observed(full)
    for t in range(cut):
        observed_t = jax.tree.map(lambda x, t=t: x[t], observed)
        learn = accompany(params, carry["learn"], observed_t, full.state[t])
        carry = {"act": act(params, carry["act"], observed_t, explore, KEY)[0], "learn": learn}
    start = SequenceStart(carry=carry, prev_actions=full.actions[cut - 1])
    entries = {name: value[cut:] for name, value in full.items() if hasattr(value, "shape")}
    late = np.arange(len(full.valid))[:, None] >= cut
    loss = samples.jit(samples.loss(algo))
    (expected, expected_aux), (result, aux) = (
        loss(params, params, batch.replace(trajectory=trajectory), hparams)
        for trajectory in (
            replace(full, valid=full.valid & late),
            Trajectory(**entries, start=start),
        )
    )
    np.testing.assert_allclose(result, expected, rtol=1e-5)
    for name, value in aux.metrics.items():
        expected = expected_aux.metrics[name]
        np.testing.assert_allclose(value, expected, rtol=1e-4, err_msg=name)


def test_needs_a_monotonic_mixer(one_step):
    mixer = vdn.make(vdn.Config(), one_step.spec)._replace(monotonic=False)
    for refused in (None, mixer):
        with pytest.raises(ValueError, match=r"algo\.mixer\.name"):
            samples.algorithm("wqmix", {}, one_step.agent, refused, one_step.spec)


def test_unrestricted_values_are_those_of_the_central_agents(one_step):
    world = make_world(one_step, "centrally")
    obs, state = jnp.array([[1.0, 9.0], [-2.0, 3.0]]), jnp.zeros(1)
    actions = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    inspected = samples.at_start(world.algo, world.trees[0], obs, state, actions)
    np.testing.assert_allclose(inspected["q_tot"], [-1.0, 4.0, 7.0, 12.0])
    np.testing.assert_allclose(inspected["q_joint"], [-2.0, 8.0, 14.0, 24.0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weighting", "elsewhere"),
    [("centrally", (-6.0, -4.5)), ("optimistically", (-1.09, None))],
)
def test_matrix_games_are_solved_where_their_optimum_is_learnt(
    play_matrix_games, weighting, elsewhere
):
    """Seeds whose Q* learns the optimum choose it, all on Q3 and nearly all on HARD; QMIX rarely
    does. On average the other entries of Q_tot are the mean of the other payoffs in CW; in OW on Q3
    -12 alpha / (1 + alpha), between four underestimates (0) and four overestimates (-12)."""
    options = {"weighting": weighting, "central_hidden": 32, "central_layers": 2}
    mixer = {"embed_dim": 8, "hypernet_layers": 1}
    played = play_matrix_games("wqmix", options, mixer, 5e-3, 1_500)
    for game, other, share in zip(played, elsewhere, (1.0, 0.85), strict=True):
        learnt = np.abs(game.unrestricted[:, 0, 0] - 8.0) < 0.5
        solved = learnt & (game.greedy == 8.0)
        assert learnt.mean() > 0.6 and solved.sum() >= share * learnt.sum()
        table = np.full((3, 3), other)
        table[0, 0] = 8.0
        mean = game.joint[solved].mean(axis=0)
        assert other is None or np.abs(mean - table).max() < 0.3


@pytest.fixture
def knowing_the_payoff(monkeypatch):
    """`weighting -> make(payoff, spec)` of weighted QMIX whose Q* is the payoff: the central
    agents' utilities are the numbers of their actions."""
    utilities = jnp.broadcast_to(jnp.arange(3.0), (2, 1, 3))

    def of(weighting, payoff, spec):
        def apply(params, inputs):
            actions = inputs.q_taken.astype(jnp.int32)
            return payoff[actions[..., 0], actions[..., 1]][..., None]

        known = critics.Critic(init=lambda key: (), apply=apply)
        monkeypatch.setattr(wqmix.central_critic, "make", lambda *_: known)
        mixer = qmix_ns.make(qmix_ns.Config(embed_dim=8), spec)
        algo = tabular.algorithm("wqmix", {"weighting": weighting}, spec, mixer)
        init = algo.init
        return algo._replace(init=lambda key: {**init(key), "central_agent": {"q": utilities}})

    return lambda weighting: lambda *args: of(weighting, *args)


def _optimum_and_others(best, other):
    table = np.full((3, 3), other)
    table[0, 0] = best
    return table


@pytest.mark.slow
def test_central_weights_solve_games_whose_payoff_is_known(knowing_the_payoff):
    """All of 64 seeds. With more weight on it, the optimum keeps its value and everything else is
    the mean of the other payoffs."""
    games, alpha = ("Q3", "HARD", "CLIMB", "P2"), [{"alpha": 0.1}]
    make = knowing_the_payoff("centrally")
    ends = tabular.play_one_step_games(make, games, alpha, 0.02, 1_500)
    np.testing.assert_array_equal(ends.greedy[:, 0].T, np.tile([8.0, 8.0, 11.0, 12.0], (64, 1)))
    for index, other in enumerate((-6.0, -4.5)):
        expected = np.broadcast_to(_optimum_and_others(8.0, other), (64, 3, 3))
        np.testing.assert_allclose(ends.tables[index, 0], expected, atol=0.1)


@pytest.mark.slow
def test_optimistic_weights_solve_games_whose_payoff_is_known(knowing_the_payoff):
    """All of 64 seeds on Q3 and most on HARD. Where the optimum is found on Q3, the rest is worth
    -12 alpha / (1 + alpha): four underestimates of 0 and four overestimates of -12."""
    coefficients = [{"alpha": alpha} for alpha in (0.1, 0.5)]
    make = knowing_the_payoff("optimistically")
    ends = tabular.play_one_step_games(make, ("Q3", "HARD", "P2"), coefficients, 0.02, 1_500)
    assert ends.reached(0, 8.0)[0] == 64 and ends.reached(1, 8.0)[0] >= 48
    np.testing.assert_array_equal(ends.reached(2, 12.0), [64, 64])
    for index, other in enumerate((-12.0 / 11.0, -4.0)):
        values = ends.tables[0, index][ends.greedy[0, index] == 8.0]
        assert len(values) > 32
        expected = np.broadcast_to(_optimum_and_others(8.0, other), values.shape)
        np.testing.assert_allclose(values, expected, atol=0.1)
