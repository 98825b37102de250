"""Pooling, labels, tasks and warnings of a report."""

import numpy as np
import pytest

from qmix_jax.reports import collect, study

LOW, HIGH = [0.0, 0.1, 0.2], [0.0, 0.6, 0.8]


@pytest.fixture
def build(tmp_path):
    return lambda: study.build(*collect.collect([tmp_path / "runs"]))


def test_seeds_of_equal_configurations_are_pooled(make_run, build):
    make_run("0", {0: LOW, 1: HIGH}, {"name": "first"})
    make_run("1", {7: LOW}, {"name": "second"})
    data = build()
    (task,) = data.tasks
    assert data.settings == {"qmix": {}} and data.keys == () and data.warnings == ()
    result = task.results["qmix"]
    assert result.seeds == (0, 1, 7) and len(result.runs) == 2
    np.testing.assert_array_equal(result.steps, [0, 100, 200])
    np.testing.assert_array_equal(result.values["eval/win_rate"], [LOW, HIGH, LOW])


def test_labels_name_exactly_the_keys_that_differ(make_run, build):
    rate = {"start": 2e-3, "end": 5e-4, "steps": 20_000.0}
    make_run("0", {0: LOW}, {"hparams.gamma": 0.9})
    make_run("1", {0: LOW}, {"hparams.gamma": 0.9, "hparams.learning_rate": rate})
    make_run("2", {0: LOW})
    data = build()
    assert list(data.settings) == [
        "hparams.learning_rate=0.001, hparams.gamma=0.9",
        "hparams.learning_rate=0.002 to 0.0005 in 20000, hparams.gamma=0.9",
        "hparams.learning_rate=0.001, hparams.gamma=0.99",
    ]
    assert data.keys == ("hparams.learning_rate", "hparams.gamma")


def test_the_length_of_a_constant_schedule_does_not_matter(make_run, build):
    make_run("0", {0: LOW})
    make_run("1", {1: LOW}, {"hparams.learning_rate": {"start": 1e-3, "end": 1e-3, "steps": 9.0}})
    assert list(build().settings) == ["qmix"]


def test_labels_omit_keys_that_the_algorithm_name_implies(make_run, build):
    vdn = {"algo.name": "vdn", "algo.mixer": {"name": "vdn", "options": {}}}
    make_run("0", {0: LOW})
    make_run("1", {0: LOW}, vdn)
    make_run("2", {0: LOW}, {"algo.name": "iql", "algo.mixer": None})
    assert list(build().settings) == ["algo.name=qmix", "algo.name=vdn", "algo.name=iql"]
    make_run("3", {0: LOW}, {"algo.mixer.options.embed_dim": 32})
    assert set(build().settings) == {
        "algo.name=qmix, algo.mixer.options.embed_dim=8",
        "algo.name=qmix, algo.mixer.options.embed_dim=32",
        "algo.name=vdn",
        "algo.name=iql",
    }


def test_hparams_of_one_algorithm_are_not_in_labels_of_others(make_run, build):
    make_run("0", {0: LOW}, {"algo.name": "vdn", "hparams.algo": {}})
    make_run("1", {0: LOW}, {"algo.name": "ow_qmix", "hparams.algo": {"alpha": 0.1}})
    assert list(build().settings) == ["algo.name=vdn", "algo.name=ow_qmix"]


def test_keys_that_differ_between_tasks_only_are_not_settings(make_run, build):
    for env, budget in (("toy/a", 300), ("toy/b", 900)):
        for gamma in (0.9, 0.99):
            changes = {"hparams.gamma": gamma, "trainer.env_steps": budget}
            make_run(f"{env}{gamma}", {0: LOW}, changes, env=env)
    data = build()
    assert [task.name for task in data.tasks] == ["toy/a", "toy/b"]
    assert list(data.settings) == ["hparams.gamma=0.9", "hparams.gamma=0.99"]
    assert all(list(task.results) == list(data.settings) for task in data.tasks)
    assert data.task_keys == ("trainer.env_steps",)


def test_environment_options_on_one_task_are_settings(make_run, build):
    make_run("0", {0: LOW}, {"env.options.kwargs": {"hard": True}})
    make_run("1", {0: LOW})
    assert set(build().settings) == {
        "env.options.kwargs.hard=true",
        "env.options.kwargs={}",
    }


def test_metric_is_the_win_rate_if_every_run_of_the_task_has_it(make_run, build):
    make_run("0", {0: LOW}, env="toy/a")
    make_run("1", {0: LOW}, env="toy/b", metric="eval/return")
    assert [task.metric for task in build().tasks] == ["eval/win_rate", "eval/return"]


def test_of_repeated_seeds_the_newest_counts(make_run, build):
    make_run("a_new", {0: HIGH, 1: HIGH}, started="2025-03-01T00:00:00+00:00")
    make_run("b_old", {1: LOW, 2: LOW}, started="2025-02-01T00:00:00+00:00")
    data = build()
    result = data.tasks[0].results["qmix"]
    np.testing.assert_array_equal(result.values["eval/win_rate"], [HIGH, HIGH, LOW])
    (line,) = data.warnings
    assert "a_new: seed 1 of this setting is also in " in line
    assert "b_old; only this one, the newest, counts (qmix)" in line


def test_shorter_runs_are_skipped_and_reported(make_run, build):
    make_run("done", {0: HIGH})
    make_run("running", {1: LOW[:2]}, finished=False)
    data = build()
    assert data.tasks[0].results["qmix"].seeds == (0,)
    assert [line.rpartition("/")[2] for line in data.warnings] == [
        "running: unfinished at 100 of 300 env steps",
        "running: skipped, it has 2 of the 3 evaluations of other runs of its setting (qmix)",
    ]


def test_an_unfinished_newer_run_does_not_replace_a_finished_one(make_run, build):
    make_run("old", {0: HIGH}, started="2025-01-01T00:00:00+00:00")
    make_run("new", {0: LOW[:2]}, started="2025-02-01T00:00:00+00:00", finished=False)
    result = build().tasks[0].results["qmix"]
    np.testing.assert_array_equal(result.values["eval/win_rate"], [HIGH])


def test_a_setting_with_unfinished_runs_only_is_reported(make_run, build):
    make_run("running", {0: LOW[:2], 1: HIGH[:2]}, {"seeds": 3}, finished=False)
    data = build()
    np.testing.assert_array_equal(data.tasks[0].results["qmix"].steps, [0, 100])
    assert [line.rpartition("/")[2] for line in data.warnings] == [
        "running: unfinished at 100 of 300 env steps",
        "running: 2 of 3 seeds so far",
    ]


def test_a_failed_run_counts_with_its_last_evaluation(make_run, build):
    """Skipping diverged runs would flatter the setting."""
    make_run("done", {0: HIGH})
    make_run("failed", {1: [0.0, 0.3]}, failure="train/loss of seed 1 is not finite")
    data = build()
    result = data.tasks[0].results["qmix"]
    np.testing.assert_array_equal(result.values["eval/win_rate"], [HIGH, [0.0, 0.3, 0.3]])
    (line,) = data.warnings
    assert line.endswith("failed: train/loss of seed 1 is not finite")


def test_different_versions_of_the_package_are_reported(make_run, build):
    make_run("0", {0: LOW}, commit="aaa")
    make_run("1", {1: LOW}, commit="bbb")
    assert build().warnings == (
        "the runs come from 2 versions of qmix_jax: 0.1.0 (aaa), 0.1.0 (bbb)",
    )
