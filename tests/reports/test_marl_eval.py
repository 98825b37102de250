"""The marl-eval format."""

import pytest

from qmix_jax.reports import collect, marl_eval, study


@pytest.fixture
def build(tmp_path):
    return lambda: study.build(*collect.collect([tmp_path / "runs"]))


def test_mapping_has_the_format_of_marl_eval(make_run, build):
    changes = {"hparams.gamma": 0.9, "agent.options.hidden": 4}
    make_run("0", {3: [0.0, 0.75, 0.5], 4: [0.0, 0.25, 0.25]}, changes, env="SMAX/3m")
    make_run("1", {3: [0.0, 0.5, 0.5], 4: [0.0, 0.5, 1.0]}, env="SMAX/3m")
    make_run("2", {3: [-8.0, 8.0, 8.0]}, env="two_step", metric="eval/return")
    data = marl_eval.as_mapping(build())
    assert data.keys() == {"SMAX", "two_step"} and data["two_step"].keys() == {"two_step"}
    algorithms = data["SMAX"]["3m"]
    assert set(algorithms) == {
        "agent.options.hidden=4 hparams.gamma=0.9",
        "agent.options.hidden=8 hparams.gamma=0.99",
    }
    run = algorithms["agent.options.hidden=4 hparams.gamma=0.9"]["seed_3"]
    assert run == {
        "step_0": {"step_count": 0, "win_rate": [0.0]},
        "step_1": {"step_count": 100, "win_rate": [0.75]},
        "step_2": {"step_count": 200, "win_rate": [0.5]},
        "absolute_metrics": {"win_rate": [0.75]},
    }
    (run,) = (seeds["seed_3"] for seeds in data["two_step"]["two_step"].values())
    assert run["absolute_metrics"] == {"return": [8.0]}


def test_names_have_no_commas_and_runs_have_equal_numbers_of_steps(make_run, build):
    make_run("0", {0: [0.0, 0.1, 0.2, 0.9, 0.4]}, {"env.options.kwargs": {"ids": [1, 2]}})
    make_run("1", {0: [0.0, 0.1, 0.2], 1: [0.0, 0.1, 0.2]})
    data = build()
    (algorithms,) = marl_eval.as_mapping(data)["toy"].values()
    assert not any("," in name for name in algorithms)
    runs = [run for seeds in algorithms.values() for run in seeds.values()]
    assert {tuple(run) for run in runs} == {("step_0", "step_1", "step_2", "absolute_metrics")}
    longer = algorithms["env.options.kwargs.ids=[1 2]"]["seed_0"]
    counts = [longer[f"step_{i}"]["step_count"] for i in range(3)]
    assert counts == [0, 200, 400], "thinned evenly, from the first to the last"
    assert longer["absolute_metrics"] == {"win_rate": [0.9]}
    (warning,) = marl_eval.seed_warnings(data)
    assert "same number of seeds" in warning


def test_equal_numbers_of_seeds_need_no_warning(make_run, build):
    make_run("0", {0: [0.5]})
    make_run("1", {5: [0.5]}, {"hparams.gamma": 0.5})
    assert marl_eval.seed_warnings(build()) == []
