"""Successive halving: survivors continue unchanged, the others end at their rung."""

import json

import jax
import numpy as np
import pytest
from toys import members
from toys.comparison import assert_equal, rows

from qmix_jax import api, config, plan, population
from qmix_jax.training import halving, programs

SETTINGS = (
    {"seed": 1, "hparams": {"learning_rate": 1e-3}},
    {"seed": 2, "seeds": 2, "hparams": {"gamma": 0.5}},
    {"seed": 5, "hparams": {"td_lambda": 0.9}},
    {"seed": 7, "trainer": {"gradient_steps": 3}},
)
HALVING = api.Halving((0.3, 0.6), keep=0.5)


def load(values, batching="map"):
    fixed = {"eval": {"every": 200}, "population": {"batching": batching, "devices": 2}}
    return members.small(**fixed, **values)


@pytest.fixture(scope="module", autouse=True)
def two_devices():
    """Starts JAX with two devices before a run of one member asks for one."""
    assert len(jax.local_devices()) == 2


@pytest.fixture(scope="module")
def solo(tmp_path_factory):
    """All jobs trained to the end; `test_train_many.py` compares them with jobs trained alone."""
    folder = tmp_path_factory.mktemp("solo")
    return api.train_many(
        [api.Job(load(values), folder / str(i)) for i, values in enumerate(SETTINGS)]
    )


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halved")
    jobs = [api.Job(load(values), folder / str(i)) for i, values in enumerate(SETTINGS)]
    programs = api.Programs()
    results = api.train_many(jobs, folder, halving=HALVING, programs=programs)
    return folder, results, programs


def scores_at_rung(solo, update_fraction, alive):
    """Objectives at a rung, from the runs trained to the end."""
    objectives = {}
    for job in alive:
        metrics, arithmetic = solo[job].metrics, solo[job].plan
        (rung,) = arithmetic.rungs((update_fraction,))
        columns = {k: v[metrics["update"] <= rung] for k, v in metrics.items()}
        objectives[job] = api.Objective().score(columns)
    return objectives


@pytest.mark.slow
def test_the_better_half_continues_at_each_rung(solo, halved):
    folder, results, _ = halved
    alive = range(4)
    for fraction, n_best in ((0.3, 2), (0.6, 1)):
        scores = scores_at_rung(solo, fraction, alive)
        ordered = sorted(alive, key=lambda job: -scores[job])
        for job in ordered[n_best:]:
            (rung,) = solo[job].plan.rungs((fraction,))
            assert results[job].pruned
            assert results[job].metrics["update"].max() == rung
        alive = ordered[:n_best]
    assert not results[alive[0]].pruned
    index = json.loads((folder / "index.json").read_text())
    assert sorted(job["status"] for job in index["jobs"]) == ["finished"] + ["pruned"] * 3


@pytest.mark.slow
def test_each_job_equals_the_job_trained_alone_up_to_its_end(solo, halved):
    folder, results, _ = halved
    for job, (result, alone) in enumerate(zip(results, solo, strict=True)):
        written = rows(folder / str(job))
        assert written == rows(alone.directory)[: len(written)]
        if not result.pruned:
            assert len(written) == len(rows(alone.directory))
            assert_equal(result.parameters, alone.parameters)
            assert_equal(result.best_parameters, alone.best_parameters)


@pytest.mark.slow
def test_members_that_take_turns_need_one_program_per_group(halved):
    assert len(halved[2]._cache) == 2


@pytest.mark.slow
def test_batched_members_move_to_the_next_smaller_program(tmp_path, monkeypatch):
    compiled = []
    original = population.compile_programs

    def counted(program, places, *rest):
        compiled.append(places.size)
        return original(program, places, *rest)

    monkeypatch.setattr(population, "compile_programs", counted)
    jobs = [
        api.Job(load({"seed": i, "hparams": {"gamma": 0.9 - 0.1 * i}}, "vmap"), tmp_path / str(i))
        for i in range(4)
    ]
    sizes = api.Programs([4, 2, 1])
    results = api.train_many(jobs, halving=api.Halving((0.5,)), programs=sizes)
    assert compiled == [4, 2]
    assert sum(result.pruned for result in results) == 2
    (winner, _) = [i for i, result in enumerate(results) if not result.pruned]
    alone = api.train(jobs[winner].config, tmp_path / "alone")
    for x, y in zip(
        jax.tree.leaves(results[winner].parameters), jax.tree.leaves(alone.parameters), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("keep", "n", "survivors"), [(0.5, 8, 4), (0.5, 3, 2), (0.25, 3, 1), (0.9, 1, 1)]
)
def test_number_of_survivors(keep, n, survivors):
    assert halving.Halving((0.5,), keep).survivors(n) == survivors


@pytest.mark.parametrize(
    ("fractions", "updates"), [((0.25, 0.5), (30, 50)), ((0.1,), (10,)), ((), ())]
)
def test_rungs_are_at_the_next_evaluation(fractions, updates):
    assert arithmetic(100, 10).rungs(fractions) == updates


@pytest.mark.parametrize("fractions", [(0.5, 0.25), (0.41, 0.49), (0.95,)])
def test_coinciding_rungs_are_refused(fractions):
    with pytest.raises(config.ConfigError, match=r"rungs: .* must increase and precede the end"):
        arithmetic(100, 10).rungs(fractions)


def arithmetic(n_updates, eval_every):
    return plan.Plan(
        window=1, burn_in=0, steps_per_update=1, warm_up_collects=0, n_updates=n_updates,
        gradient_steps=1, log_every=1, eval_every=eval_every, capacity=1, sequence_bytes=1,
    )  # fmt: skip


def test_all_members_must_fit_together(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "memory_limit", lambda group: 60_000)
    jobs = [api.Job(load({"seed": i}), tmp_path / str(i)) for i in range(8)]
    with pytest.raises(
        config.ConfigError, match=r"memory: successive halving keeps all members in memory"
    ):
        api.train_many(jobs, halving=HALVING)
    assert not list(tmp_path.rglob("metrics.csv"))
