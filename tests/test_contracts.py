"""Algorithms outside the package that its contracts support unchanged: continuous actions, opposed
rewards learnt online in tables, an on-policy actor-critic with two phases.
"""

import re

import jax
import numpy as np
import pytest
from toys import members

from qmix_jax import config, program

ONE_STEP = {"collector": "episode", "window": None, "warm_up": 0, "n_envs": 16}


def load(game, algorithm, **changes):
    settings = {
        "env": {"name": f"toys.{game}"},
        "agent": {"name": "mlp", "options": {"hidden": 16}},
        "algo": {"name": algorithm, "algorithm": f"toys.{algorithm}", "mixer": None},
        "seeds": 3,
        "hparams": {"learning_rate": 3e-3, "reward_scale": 1.0, "target_period": 5},
        "eval": {"every": 1_000_000, "episodes": 8},
    }
    return members.load(**{**settings, **changes})


CONTINUOUS = {
    "hparams": {"learning_rate": 5e-3, "epsilon": {"start": 1.0, "end": 0.1, "steps": 3_000}},
    "trainer": {**ONE_STEP, "warm_up": 64, "env_steps": 6_000, "gradient_steps": 4},
}


@pytest.mark.parametrize("kind", ["uniform", "transitions"])
def test_continuous_actions_are_stored_and_learnt(kind):
    """Both agents come near the best point from replayed joint actions."""
    replay = {"kind": kind, "batch_size": 32, "capacity": 4_000}
    trained = members.train(load("aim", "deterministic", replay=replay, **CONTINUOUS))
    ring = trained.states[0].replay
    assert ring["actions"].shape[2:] == (1, 2, 1) and ring["actions"].dtype == np.float32
    assert np.ptp(np.asarray(ring["actions"])) > 1.0, "it explores"
    assert (trained.evaluation["return"] > -0.05).all(), trained.evaluation["return"]
    assert {"train/critic_loss", "train/actor_loss", "train/sigma"} <= set(trained.metrics.totals)


ONLINE = {
    "agent": {"name": "mlp", "options": {"hidden": 1}},
    "hparams": {"epsilon": 0.5},
    "trainer": {**ONE_STEP, "n_envs": 3, "window": 4, "env_steps": 1_200, "collector": "segment"},
}


@pytest.fixture(scope="module")
def duel_result():
    """The tabular learner after 100 updates of 4 steps in 3 environments."""
    return members.train(load("duel", "averages", **ONLINE))


def test_each_agent_learns_from_its_own_reward(duel_result):
    """Against half random play each agent's means prefer its dominant or best action; evaluation
    scores the first agent and reports the return of each."""
    q = duel_result.parameters["q"][:, :, 0]
    assert (np.argmax(q, axis=-1) == [0, 1]).all()
    evaluation = duel_result.evaluation
    np.testing.assert_array_equal(evaluation["return"], 1.0)
    np.testing.assert_array_equal(evaluation["return/row"], 1.0)
    np.testing.assert_array_equal(evaluation["return/column"], -1.0)
    assert duel_result.program.eval_metrics == ("return", "length", "return/row", "return/column")


def test_an_online_learner_uses_every_step_once(duel_result):
    """1,200 visits per agent; means of opposed rewards have opposite weighted sums; the clock
    counts every update 0, 1, 2, ..."""
    n = np.asarray(duel_result.states[0].learner.opt_state["n"])
    np.testing.assert_array_equal(n.sum(axis=(2, 3)), 1_200)
    paid = (duel_result.parameters["q"][: len(n)] * n).sum(axis=(2, 3))
    np.testing.assert_allclose(paid[:, 0], -paid[:, 1], rtol=1e-4)
    assert (np.abs(paid) > 100.0).all()
    plan = duel_result.program.plan
    assert (plan.n_updates, plan.gradient_steps, plan.warm_up_collects) == (100, 12, 0)
    for name in ("train/step", "train/env_step"):
        total, count = (float(x[0]) for x in duel_result.metrics.totals[name])
        assert (total, count) == (1_200 * 1_199 / 2, 1_200), name
    assert jax.tree.leaves(duel_result.states[0].replay) == []


def test_chunk_length_does_not_change_an_online_learner():
    """Chunks of 3, 1 and 96 updates equal one of 100 bit for bit."""
    cfg = load("duel", "averages", **ONLINE)
    uncut, cut = members.train(cfg), members.train(cfg, calls=(3, 1, 96))
    for a, b in zip(members.leaves(uncut.states), members.leaves(cut.states), strict=True):
        np.testing.assert_array_equal(a, b)


ON_POLICY = {
    "env": {"name": "matrix", "options": {"game": None, "payoff": [[3.0, 1.0], [1.0, 0.0]]}},
    "hparams": {"learning_rate": 1e-2, "target_period": 3},
    "replay": {"kind": "on_policy", "batch_size": 16, "capacity": None},
    "trainer": {**ONE_STEP, "env_steps": 2_400, "gradient_steps": 1},
}


@pytest.fixture(scope="module")
def trained():
    """The actor-critic after 150 updates on a game whose first actions are dominant."""
    return members.train(load("x", "actor_critic", **ON_POLICY))


def test_an_on_policy_actor_critic_with_a_target_critic_learns(trained):
    np.testing.assert_array_equal(trained.evaluation["return"], 3.0)


def test_behaviour_from_act_and_prepare_is_stored_with_the_trajectory(trained):
    """log pi of the actions taken, advantages of the rollout, and statistics of the normaliser,
    which gradient steps do not change."""
    state = trained.states[0]
    stored = state.replay["behaviour"]
    assert stored["log_prob"].shape[2:] == (1, 2) and stored["advantage"].shape[2:] == (1,)
    assert (np.asarray(stored["log_prob"]) < 0).all()
    square = float(np.asarray(state.learner.params["statistics"]["square"])[0])
    assert square > 0 and square != 1.0
    assert set(state.learner.target_params) == {"critic"}


def test_phases_of_an_actor_critic_count_their_own_steps(trained):
    """Two critic steps in each of 150 gradient steps, one actor step; metrics carry their names."""
    totals = trained.metrics.totals
    assert totals["train/critic_loss"][1][0] == 300
    assert totals["train/actor_loss"][1][0] == 150
    assert set(trained.metrics.first_nonfinite) == {
        f"train/{name}" for name in (
            "critic_loss", "critic_grad_norm", "actor_loss", "actor_grad_norm",
        )
    }  # fmt: skip


def test_a_member_with_a_diverging_actor_is_frozen():
    """Any watched loss freezes, whatever the names of the phases."""
    cfg = load("x", "actor_critic", **{**ON_POLICY, "hparams": {"learning_rate": 1e30}})
    trained = members.train(cfg, calls=(6,))
    firsts = trained.metrics.first_nonfinite
    assert min(first[0] for first in firsts.values()) < 6
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained.parameters))


@pytest.mark.parametrize(
    ("env", "algo", "changes", "words"),
    [
        ("aim", None, {}, "it needs discrete actions, and those of aim are box"),
        ("duel", None, {}, "it learns from one team reward, and the agents of duel compete"),
        ("counting", "deterministic", {}, "it needs box actions, and those of counting are disc"),
        ("counting", "averages", {}, "whose rewards add up to zero; counting is not `zero_sum`"),
        ("counting", "actor_critic", {}, "replay.kind=on_policy, got uniform"),
        ("counting", None, {"replay": {"kind": "on_policy"}}, "got on_policy"),
        ("counting", None, {"replay": {"kind": "transitions"}}, "set agent=mlp"),
    ],
)  # fmt: skip
def test_unmet_needs_are_refused_with_the_reason(env, algo, changes, words):
    overrides = {} if algo is None else {
        "algo": {"name": algo, "algorithm": f"toys.{algo}", "mixer": None}
    }  # fmt: skip
    cfg = members.load(env={"name": f"toys.{env}"}, **overrides, **changes)
    with pytest.raises(config.ConfigError, match=re.escape(words)) as error:
        program.build(cfg)
    text = str(error.value)
    assert "\n" not in text and "algorithms that fit: " in text
    if env == "counting" and algo == "actor_critic":
        assert "td" in text and "pqn" in text


def test_an_online_learner_refuses_a_warm_up():
    changed = {**ONLINE, "trainer": {**ONLINE["trainer"], "warm_up": 10}}
    cfg = load("duel", "averages", **changed)
    with pytest.raises(config.ConfigError, match=r"trainer\.warm_up=10.*set both to 0"):
        program.build(cfg)
