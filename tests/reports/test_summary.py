"""Rankings, normalisation over tasks, order, and costs."""

import numpy as np
import pytest

from qmix_jax.reports import collect, study, summary

OPTIONS = summary.Options(last=2, resamples=100, top=10)


@pytest.fixture
def build(tmp_path):
    return lambda: study.build(*collect.collect([tmp_path / "runs"]))


def test_a_score_is_the_mean_of_the_last_evaluations(make_run, build):
    make_run("0", {0: [9.0, 0.2, 0.4], 1: [9.0, 0.6, 0.8]})
    (ranking,) = summary.rankings(build(), OPTIONS)
    (row,) = ranking.rows
    np.testing.assert_allclose(row.scores, [[0.3, 0.7]])
    assert row.iqm.value == pytest.approx(0.5)
    assert (row.iqm.low, row.iqm.high) == pytest.approx((0.3, 0.7))
    assert (row.seeds, row.env_steps, ranking.unit, ranking.bounded) == (2, 200, "win rate", True)


def test_the_best_setting_comes_first(make_run, build):
    for gamma, score in ((0.5, 0.1), (0.9, 0.8), (0.99, 0.4)):
        make_run(str(gamma), {0: [0.0, score, score]}, {"hparams.gamma": gamma})
    rankings = summary.rankings(build(), OPTIONS)
    expected = ("hparams.gamma=0.9", "hparams.gamma=0.99", "hparams.gamma=0.5")
    assert tuple(row.setting for row in rankings[0].rows) == summary.order(rankings) == expected


def test_over_all_tasks_returns_are_normalised_and_win_rates_are_not(make_run, build):
    for gamma, win_rate, value in ((0.9, 0.2, 30.0), (0.99, 0.4, -10.0)):
        changes = {"hparams.gamma": gamma}
        make_run(f"a{gamma}", {0: [0.1, win_rate, win_rate]}, changes, env="toy/a")
        returns = {0: [-50.0, value, value]}
        make_run(f"b{gamma}", returns, changes, env="toy/b", metric="eval/return")
    rankings = summary.rankings(build(), OPTIONS)
    assert [ranking.title for ranking in rankings] == ["toy/a", "toy/b", "all tasks"]
    assert rankings[1].unit == "return" and not rankings[1].bounded
    scores = {row.setting: row.scores for row in rankings[2].rows}
    np.testing.assert_allclose(scores["hparams.gamma=0.9"], [[0.2], [1.0]])
    np.testing.assert_allclose(scores["hparams.gamma=0.99"], [[0.4], [0.5]])
    assert summary.order(rankings) == ("hparams.gamma=0.9", "hparams.gamma=0.99")
    assert rankings[2].rows[0].cost is None


def test_a_ranking_over_all_tasks_needs_every_setting_on_each(make_run, build):
    make_run("0", {0: [0.1]}, {"hparams.gamma": 0.9}, env="toy/a")
    make_run("1", {0: [0.5]}, env="toy/a")
    make_run("2", {0: [0.5]}, env="toy/b")
    make_run("3", {0: [0.1]}, {"hparams.gamma": 0.5}, env="toy/b")
    rankings = summary.rankings(build(), OPTIONS)
    assert [ranking.title for ranking in rankings] == ["toy/a", "toy/b"]
    assert summary.order(rankings)[0] == "hparams.gamma=0.99", "first in both"


def test_costs_come_from_the_manifest(make_run, build):
    make_run("0", {0: [0.1, 0.2, 0.3], 1: [0.1, 0.2, 0.3]}, members=6)
    (ranking,) = summary.rankings(build(), OPTIONS)
    cost = ranking.rows[0].cost
    assert cost == summary.Cost(wall_s=30.0, steps_per_s=51.0, members=6, shared=True)
    alone = collect.read(make_run("1", {2: [0.1, 0.2]}, finished=False))
    assert summary.cost([alone]) == summary.Cost(7.0, 50.5, 1, False), "compile 6 s, train 1 s"


def test_profile_thresholds_span_the_scores(make_run, build):
    make_run("0", {0: [5.0], 1: [7.0]}, metric="eval/return")
    (ranking,) = summary.rankings(build(), OPTIONS)
    taus, share = summary.profile(ranking, ranking.rows[0], OPTIONS)
    assert taus[0] < 5 and taus[-1] > 7
    assert (share.value[0], share.value[100], share.value[-1]) == (1.0, 0.5, 0.0)
