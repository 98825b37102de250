"""`hydra/launcher=fused`: the jobs of a multirun in as few programs as possible."""

import json
import types

import pytest
import yaml
from toys.command_line import TINY, run

from qmix_jax import api, config
from qmix_jax.cli import composition
from qmix_jax.training import session

FUSED = ("train", "-m", "hydra/launcher=fused")


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """Replaces `api.train_many`: records the jobs; `outcome(job)` makes the results."""
    record = types.SimpleNamespace(jobs=[], directory=None, outcome=lambda job: result(1.0))

    def train_many(jobs, directory=None):
        record.jobs, record.directory = list(jobs), directory
        return tuple(record.outcome(job) for job in jobs)

    monkeypatch.setattr(api, "train_many", train_many)
    monkeypatch.chdir(tmp_path)
    return record


def result(objective, failures=None, interrupted=False):
    return types.SimpleNamespace(
        objective=objective, failures=failures or {}, interrupted=interrupted
    )


@pytest.mark.slow
def test_all_jobs_train_together_as_hydra_composes_them(trained, capsys):
    swept = ("algo=qmix,vdn", "hparams.gamma=0.9,0.95", "seed=range(2)")
    assert run(*FUSED, *TINY, *swept) == 0, capsys.readouterr().err
    assert len(trained.jobs) == 8
    seen = {(j.config.algo.name, j.config.hparams.gamma, j.config.seed) for j in trained.jobs}
    assert len(seen) == 8
    first, last = trained.jobs[0], trained.jobs[-1]
    assert first.label == "experiment=two_step seeds=1 trainer.env_steps=120 " + (
        "trainer.log_every=60 eval.every=60 algo=qmix hparams.gamma=0.9 seed=0"
    )
    assert first.command == f"qmix-jax train {first.label}"
    assert first.directory.name == "0_two_step_qmix" and last.directory.name == "7_two_step_vdn"
    assert str(first.directory.parent) == trained.directory
    assert first.config == config.load(composition.compose(*first.label.split()))


def test_config_dir_is_part_of_the_command(trained, tmp_path):
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\ndefaults: [two_step]\nname: mine\n")
    assert run(*FUSED, "--config-dir", str(folder.parent), "experiment=mine", "seed=1,2") == 0
    assert trained.jobs[1].config.name == "mine"
    assert trained.jobs[1].command == (
        f"qmix-jax train --config-dir {folder.parent} experiment=mine seed=2"
    )


@pytest.mark.slow
def test_diverged_members_are_reported_and_the_exit_code_is_1(trained, capsys):
    trained.outcome = lambda job: result(1.0, {0: "frozen"} if job.config.seed == 1 else {})
    assert run(*FUSED, *TINY, "seed=0,1,2") == 1
    assert capsys.readouterr().err == "error: job 1: frozen\n"
    trained.outcome = lambda job: result(1.0)
    assert run(*FUSED, *TINY, "seed=0,1,2") == 0, "failures of an earlier sweep do not count"


@pytest.mark.parametrize("missing", [None, result(1.0, interrupted=True)])
def test_ctrl_c_is_exit_code_130(trained, missing):
    trained.outcome = lambda job: missing if job.config.seed == 1 else result(1.0)
    assert run(*FUSED, *TINY, "seed=0,1") == 130


REFUSED = [
    (("hparams.gama=0.9,0.8",), "did you mean 'hparams.gamma'?"),
    (("hparams.gamma=0.9,abc",), "config: hparams.gamma='abc'"),
    (("seed=range(3,3)",), "command line: 'seed=range(3,3)' has no values"),
    (("seed=0,1", "hydra.sweep.subdir=same"), "jobs 0 and 1 both write to"),
    (
        ("algo=qmix,vdn", "trainer.n_envs=4,8", "hydra.launcher.max_programs=2"),
        "sweep: 4 jobs need 4 compiled programs, more than hydra.launcher.max_programs=2: they "
        "differ in static keys (algo.",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_mistakes_are_one_line_and_nothing_is_trained(
    arguments, message, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "Session", None)
    assert run(*FUSED, *TINY, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert message in error
    assert not list(tmp_path.rglob("metrics.csv"))


@pytest.mark.slow
def test_a_fused_multirun_from_start_to_end(run_python, tmp_path):
    swept = ("hparams.gamma=0.9,0.99", "algo=vdn,iql")
    command = ("-m", "qmix_jax", *FUSED, *TINY, *swept)
    done = run_python(*command, "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    assert "4 jobs in 2 compiled programs" in done.stdout
    assert done.stdout.count("compiled in") == 2
    index = json.loads((tmp_path / "sweep" / "index.json").read_text())
    assert [group["jobs"] for group in index["groups"]] == [[0, 2], [1, 3]]
    for job in index["jobs"]:
        folder = tmp_path / "sweep" / job["directory"]
        saved = config.load(yaml.safe_load((folder / "config.yaml").read_text()))
        assert saved == config.load(composition.compose(*job["overrides"].split()))
        assert {"curves.png", "metrics.csv", "parameters_final.npz"} <= {
            path.name for path in folder.iterdir()
        }


def test_plan_reads_the_same_arguments_as_train(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(
        api, "plan_runs", lambda configs, memory=None: calls.append((configs, memory))
    )
    assert run("plan", "-m", *TINY, "seed=1,2,3", "--memory", "24GiB") == 0
    assert run("plan", "experiment=matrix") == 0
    (configs, memory), second = calls
    assert [cfg.seed for cfg in configs] == [1, 2, 3] and memory == 24 * 2**30
    assert second == ([composition.load("experiment=matrix")], None)
    for wrong in (("--memory", "much"), ("--memory",), ("hparams.gama=1",)):
        assert run("plan", *wrong) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.slow
def test_plan_from_start_to_end(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("plan", *TINY, "-m", "seed=0,1", "algo=vdn,qmix") == 0
    printed = capsys.readouterr().out
    assert "4 jobs in 2 compiled programs" in printed
    assert printed.count("2 members at a time, 1 slice") == 2
    assert "replay" in printed and "optimiser" in printed
