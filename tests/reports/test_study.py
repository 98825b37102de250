"""Pooling, labels, tasks, and what is said about odd runs."""

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
    found = build()
    (task,) = found.tasks
    assert found.settings == {"qmix": {}} and found.keys == () and found.warnings == ()
    cell = task.cells["qmix"]
    assert cell.seeds == (0, 1, 7) and len(cell.runs) == 2
    np.testing.assert_array_equal(cell.steps, [0, 100, 200])
    np.testing.assert_array_equal(cell.values["eval/win_rate"], [LOW, HIGH, LOW])


def test_labels_name_the_keys_that_differ_and_no_others(make_run, build):
    rate = {"start": 2e-3, "end": 5e-4, "steps": 20_000.0}
    make_run("0", {0: LOW}, {"hparams.gamma": 0.9})
    make_run("1", {0: LOW}, {"hparams.gamma": 0.9, "hparams.learning_rate": rate})
    make_run("2", {0: LOW})
    found = build()
    assert list(found.settings) == [
        "hparams.learning_rate=0.001, hparams.gamma=0.9",
        "hparams.learning_rate=0.002 to 0.0005 in 20000, hparams.gamma=0.9",
        "hparams.learning_rate=0.001, hparams.gamma=0.99",
    ]
    assert found.keys == ("hparams.learning_rate", "hparams.gamma")


def test_a_constant_schedule_is_one_whatever_its_length(make_run, build):
    make_run("0", {0: LOW})
    make_run("1", {1: LOW}, {"hparams.learning_rate": {"start": 1e-3, "end": 1e-3, "steps": 9.0}})
    assert list(build().settings) == ["qmix"]


def test_an_algorithm_s_name_stands_for_its_parts(make_run, build):
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


def test_an_algorithm_s_own_numbers_do_not_name_those_that_have_none(make_run, build):
    make_run("0", {0: LOW}, {"algo.name": "vdn", "hparams.algo": {}})
    make_run("1", {0: LOW}, {"algo.name": "ow_qmix", "hparams.algo": {"alpha": 0.1}})
    assert list(build().settings) == ["algo.name=vdn", "algo.name=ow_qmix"]


def test_tasks_are_apart_and_what_differs_between_them_is_no_setting(make_run, build):
    for env, budget in (("toy/a", 300), ("toy/b", 900)):
        for gamma in (0.9, 0.99):
            changes = {"hparams.gamma": gamma, "trainer.env_steps": budget}
            make_run(f"{env}{gamma}", {0: LOW}, changes, env=env)
    found = build()
    assert [task.name for task in found.tasks] == ["toy/a", "toy/b"]
    assert list(found.settings) == ["hparams.gamma=0.9", "hparams.gamma=0.99"]
    assert all(list(task.cells) == list(found.settings) for task in found.tasks)
    assert found.task_keys == ("trainer.env_steps",)


def test_options_of_one_environment_are_settings(make_run, build):
    make_run("0", {0: LOW}, {"env.options.kwargs": {"hard": True}})
    make_run("1", {0: LOW})
    assert set(build().settings) == {
        "env.options.kwargs.hard=true",
        "env.options.kwargs={}",
    }


def test_the_win_rate_is_the_score_where_every_run_has_one(make_run, build):
    make_run("0", {0: LOW}, env="toy/a")
    make_run("1", {0: LOW}, env="toy/b", metric="eval/return")
    assert [task.metric for task in build().tasks] == ["eval/win_rate", "eval/return"]


def test_of_a_seed_run_twice_the_newest_counts(make_run, build):
    make_run("a_new", {0: HIGH, 1: HIGH}, started="2025-03-01T00:00:00+00:00")
    make_run("b_old", {1: LOW, 2: LOW}, started="2025-02-01T00:00:00+00:00")
    found = build()
    cell = found.tasks[0].cells["qmix"]
    np.testing.assert_array_equal(cell.values["eval/win_rate"], [HIGH, HIGH, LOW])
    (line,) = found.warnings
    assert "a_new: seed 1 of this setting was run before, in " in line
    assert "b_old; this one, the newest, counts (qmix)" in line


def test_runs_that_have_not_got_as_far_are_left_out_and_named(make_run, build):
    make_run("done", {0: HIGH})
    make_run("running", {1: LOW[:2]}, finished=False)
    found = build()
    assert found.tasks[0].cells["qmix"].seeds == (0,)
    assert [line.rpartition("/")[2] for line in found.warnings] == [
        "running: unfinished at 100 of 300 env steps",
        "running: left out, it has 2 of the 3 evaluations of other runs of its setting (qmix)",
    ]


def test_an_unfinished_newer_run_does_not_push_out_a_finished_one(make_run, build):
    make_run("old", {0: HIGH}, started="2025-01-01T00:00:00+00:00")
    make_run("new", {0: LOW[:2]}, started="2025-02-01T00:00:00+00:00", finished=False)
    cell = build().tasks[0].cells["qmix"]
    np.testing.assert_array_equal(cell.values["eval/win_rate"], [HIGH])


def test_a_setting_whose_runs_are_all_unfinished_is_shown_and_named(make_run, build):
    make_run("running", {0: LOW[:2], 1: HIGH[:2]}, {"seeds": 3}, finished=False)
    found = build()
    np.testing.assert_array_equal(found.tasks[0].cells["qmix"].steps, [0, 100])
    assert [line.rpartition("/")[2] for line in found.warnings] == [
        "running: unfinished at 100 of 300 env steps",
        "running: 2 of 3 seeds so far",
    ]


def test_a_run_that_failed_early_keeps_what_it_had_reached(make_run, build):
    """Leaving diverged runs out would flatter the setting."""
    make_run("done", {0: HIGH})
    make_run("failed", {1: [0.0, 0.3]}, failure="train/loss of seed 1 is not finite")
    found = build()
    cell = found.tasks[0].cells["qmix"]
    np.testing.assert_array_equal(cell.values["eval/win_rate"], [HIGH, [0.0, 0.3, 0.3]])
    (line,) = found.warnings
    assert line.endswith("failed: train/loss of seed 1 is not finite")


def test_different_states_of_the_program_are_named(make_run, build):
    make_run("0", {0: LOW}, commit="aaa")
    make_run("1", {1: LOW}, commit="bbb")
    assert build().warnings == (
        "the runs come from 2 states of qmix_jax: 0.1.0 (aaa), 0.1.0 (bbb)",
    )
