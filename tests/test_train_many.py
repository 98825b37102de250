"""Configurations that share a program train as if each were alone."""

import json
import types

import jax
import numpy as np
import pytest
from toys import members
from toys.comparison import assert_equal, rows

from qmix_jax import api, config
from qmix_jax.runs import scores, sweep_index
from qmix_jax.training import session

pytestmark = pytest.mark.usefixtures("empty_pictures")

DIVERGING = {"learning_rate": {"start": 1e-3, "end": 1e38, "steps": 60}, "max_grad_norm": 1e30}
SETTINGS = (
    {"hparams": {"gamma": 0.9, "learning_rate": 1e-3}},
    {"seeds": 2, "seed": 3, "hparams": {"td_lambda": 0.7, "target_period": 3}},
    {"seed": 9, "hparams": {"epsilon": 0.2, "huber_delta": 0.5, "target_tau": 0.5}},
)


def run(folder, settings):
    jobs = [
        api.Job(members.small(**values), folder / str(i), label=f"job {i}")
        for i, values in enumerate(settings)
    ]
    return api.train_many(jobs, folder)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    return folder, run(folder, SETTINGS)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return [
        api.train(members.small(**values), folder / str(i)) for i, values in enumerate(SETTINGS)
    ]


@pytest.mark.slow
def test_each_job_equals_the_job_trained_alone(together, alone):
    folder, results = together
    for i, (result, solo) in enumerate(zip(results, alone, strict=True)):
        assert_equal(result.parameters, solo.parameters)
        assert_equal(result.best_parameters, solo.best_parameters)
        assert rows(folder / str(i)) == rows(solo.directory)
        files = [
            {p.name for p in path.iterdir()}
            - {"checkpoints"}  # those of all jobs are in the first directory
            for path in (folder / str(i), solo.directory)
        ]
        assert files[0] == files[1]
        assert (folder / str(i) / "config.yaml").read_text() == (
            solo.directory / "config.yaml"
        ).read_text()


def test_jobs_differ(together):
    _, results = together
    kernels = [result.parameters["agent"]["head"]["kernel"][0] for result in results]
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[2])


def test_the_index_lists_every_job(together):
    folder, results = together
    index = json.loads((folder / sweep_index.INDEX_FILE).read_text())
    assert [job["directory"] for job in index["jobs"]] == ["0", "1", "2"]
    assert [job["overrides"] for job in index["jobs"]] == ["job 0", "job 1", "job 2"]
    assert {job["status"] for job in index["jobs"]} == {"finished"}
    assert [job["objective"] for job in index["jobs"]] == [r.objective for r in results]
    (group,) = index["groups"]
    assert group["jobs"] == [0, 1, 2] and group["compile_s"] > 0 and group["train_s"] > 0
    assert index["separated_by"] == []


@pytest.mark.slow
def test_a_diverging_member_is_frozen_and_the_others_continue(tmp_path, alone):
    settings = (SETTINGS[0], {"seeds": 2, "hparams": DIVERGING}, SETTINGS[2])
    first, second, third = run(tmp_path, settings)
    assert_equal(first.parameters, alone[0].parameters)
    assert_equal(third.parameters, alone[2].parameters)
    assert rows(tmp_path / "2") == rows(alone[2].directory)
    assert not first.failures and not third.failures
    assert set(second.failures) == {0, 1}
    assert "seed 1 is not finite at update" in second.failures[1]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(second.parameters))
    evaluated = second.metrics["eval/return"][second.metrics["kind"] == "eval"]
    assert np.isfinite(evaluated).all()
    index = json.loads((tmp_path / sweep_index.INDEX_FILE).read_text())
    assert len(index["jobs"][1]["failures"]) == 2
    manifest = json.loads((tmp_path / "1" / "manifest.json").read_text())
    assert set(manifest["reached"]["failures"]) == {"0", "1"}


@pytest.mark.slow
def test_jobs_that_differ_in_a_static_key_get_two_programs(tmp_path, capsys):
    results = run(tmp_path, ({"trainer": {"env_steps": 200}},
                             {"trainer": {"env_steps": 200, "gradient_steps": 3}}))  # fmt: skip
    assert all(result.metrics["update"].max() > 0 for result in results)
    printed = capsys.readouterr().out
    assert "2 jobs in 2 compiled programs" in printed
    assert "static keys differ: trainer.gradient_steps" in printed
    index = json.loads((tmp_path / sweep_index.INDEX_FILE).read_text())
    assert index["separated_by"] == ["trainer.gradient_steps"]
    assert [job["group"] for job in index["jobs"]] == [0, 1]


def test_bad_jobs_are_refused_before_compiling(tmp_path):
    cfg = members.small()
    with pytest.raises(config.ConfigError, match=r"jobs 0 and 1 both write to"):
        api.train_many([api.Job(cfg, tmp_path / "x"), api.Job(cfg, tmp_path / "x")])
    with pytest.raises(config.ConfigError, match="no jobs"):
        api.train_many([])
    assert not list(tmp_path.iterdir())


def test_the_objective_is_the_interquartile_mean_of_the_last_evaluations():
    finals = {0: [9, 1, 1, 1], 1: [9, 2, 2, 5], 2: [9, 4, 4, 4], 3: [9, 100, 100, 100]}
    lines = [(seed, step, v) for seed, vs in finals.items() for step, v in enumerate(vs)]
    metrics = {
        "seed": np.array([line[0] for line in lines]),
        "env_steps": np.array([line[1] for line in lines]),
        "eval/return": np.array([line[2] for line in lines], float),
    }
    assert scores.Objective().score(metrics) == (3 + 4) / 2, "means 1, 3, 4, 100: the middle half"
    assert scores.Objective(last=1).score(metrics) == (5 + 4) / 2
    metrics["eval/win_rate"] = metrics["eval/return"] / 200
    assert scores.Objective().score(metrics) == pytest.approx(3.5 / 200)
    assert scores.Objective("eval/return").score(metrics) == 3.5
    assert np.isnan(scores.Objective("eval/none").score(metrics))


CACHES = []


class Idle:
    """A session without training that adds its program cache to `CACHES`."""

    def __init__(self, groups, compiled, *rest):
        CACHES.append(compiled)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def step(self):
        return False

    def results(self, group):
        cfg = types.SimpleNamespace(seeds=1)
        return [
            types.SimpleNamespace(
                objective=1.0,
                interrupted=False,
                pruned=False,
                stopped=None,
                failures={},
                config=cfg,
            )
        ]

    def seconds(self, group):
        return types.SimpleNamespace(compile_s=0.0, train_s=0.0, eval_s=0.0)


def test_programs_are_freed_with_their_group_unless_the_caller_shares_a_cache(
    tmp_path, monkeypatch
):
    """Dozens of programs would fill the table of memory maps of the process."""
    monkeypatch.setattr(session, "Session", Idle)
    configs = [members.load(trainer={"gradient_steps": steps}) for steps in (1, 2)]
    shared = api.Programs()
    for i, programs in enumerate((None, shared)):
        jobs = [api.Job(cfg, tmp_path / f"{i}{k}") for k, cfg in enumerate(configs)]
        api.train_many(jobs, programs=programs)
    assert len(CACHES) == 4
    assert CACHES[0] is not CACHES[1]
    assert CACHES[2] is CACHES[3] is shared
