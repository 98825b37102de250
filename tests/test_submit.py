"""`hydra/launcher=fused_slurm` and `fused_local`: groups of a sweep as jobs of submitit."""

import contextlib
import csv
import io
import json
import math
import os
import pathlib
import shutil
import sys
import types

import numpy as np
import pytest
import submitit
import yaml
from toys import preempted
from toys.command_line import TINY, run

from qmix_jax import api, config, population
from qmix_jax.cli import composition, group_task, job_queue, submit

pytestmark = pytest.mark.as_users

TESTS = pathlib.Path(__file__).resolve().parent
LOCAL = ("train", "-m", "hydra/launcher=fused_local")
SLURM = ("train", "-m", "hydra/launcher=fused_slurm")
MACHINE = ("time_s", "perf/env_steps_per_s")


@contextlib.contextmanager
def working_in(folder):
    """Changes to a folder; jobs run on CPUs and can import the package and the toys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("JAX_PLATFORMS", "cpu")
        paths = (str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", ""))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        yield patch


@pytest.fixture
def here(tmp_path):
    with working_in(tmp_path):
        yield tmp_path


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The same sweep in jobs (`submitted`) and in one process (`fused`), and its output."""
    folder = tmp_path_factory.mktemp("swept")
    jobs = (*TINY, "algo=vdn,iql", "seed=0,1")
    printed = io.StringIO()
    with working_in(folder), contextlib.redirect_stdout(printed):
        parallel = "hydra.launcher.array_parallelism=2"
        assert run(*LOCAL, parallel, "hydra.sweep.dir=submitted", *jobs) == 0
    with working_in(folder):
        assert run("train", "-m", "hydra/launcher=fused", "hydra.sweep.dir=fused", *jobs) == 0
    return folder, printed.getvalue()


def rows(directory):
    """Returns the metrics as text, without columns that depend on the machine."""
    with (directory / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in MACHINE} for row in csv.DictReader(file)]


def index_of(folder):
    return json.loads((folder / "index.json").read_text())


# Results


@pytest.mark.slow
def test_runs_equal_those_of_the_fused_launcher(swept):
    folder, _ = swept
    ours, theirs = index_of(folder / "submitted"), index_of(folder / "fused")
    assert [job["overrides"] for job in ours["jobs"]] == [j["overrides"] for j in theirs["jobs"]]
    for job in ours["jobs"]:
        mine, other = folder / "submitted" / job["directory"], folder / "fused" / job["directory"]
        assert {p.name for p in mine.iterdir()} == {p.name for p in other.iterdir()}
        assert {row["kind"] for row in rows(mine)} == {"train", "eval"}
        assert rows(mine) == rows(other)
        assert (mine / "config.yaml").read_text() == (other / "config.yaml").read_text()
        manifests = [json.loads((path / "manifest.json").read_text()) for path in (mine, other)]
        assert manifests[0]["command"] == manifests[1]["command"]
        for name in ("parameters_final.npz", "parameters_best.npz"):
            with np.load(mine / name) as first, np.load(other / name) as second:
                assert first.files == second.files
                for key in first.files:
                    np.testing.assert_array_equal(first[key], second[key])


@pytest.mark.slow
def test_the_index_of_the_sweep_lists_all_jobs(swept):
    folder, _ = swept
    ours, theirs = index_of(folder / "submitted"), index_of(folder / "fused")
    assert ours["jobs"] == theirs["jobs"], "directories, groups, objectives, failures"
    assert {job["status"] for job in ours["jobs"]} == {"finished"}
    assert ours["separated_by"] == theirs["separated_by"]
    for mine, its in zip(ours["groups"], theirs["groups"], strict=True):
        assert mine["jobs"] == its["jobs"] and len(mine["jobs"]) == 2
        assert mine["compile_s"] > 0 and mine["train_s"] > 0
        log, _ = (folder / "submitted" / name for name in mine["logs"])
        assert mine["submitted_as"] in log.name and "compiled in" in log.read_text()


@pytest.mark.slow
def test_each_change_of_state_is_one_line(swept):
    _, printed = swept
    lines = printed.splitlines()
    assert lines[0] == "4 jobs in 2 compiled programs"
    for group in ("group 0 (jobs 0, 1): ", "group 1 (jobs 2, 3): "):
        states = [line.removeprefix(group) for line in lines if line.startswith(group)]
        assert [line.split()[0] for line in states] == ["submitted", "running", "finished"]
    assert any(line.strip().endswith("submitted/index.json") for line in lines)


@pytest.mark.slow
def test_a_failed_group_does_not_stop_the_others(here, capsys):
    environments = ("env=custom", "env.name=toys.failing,toys.constant", "algo=vdn")
    assert run(*LOCAL, *TINY, *environments, "hydra.sweep.dir=sweep") == 1
    printed = capsys.readouterr()
    line = (
        "env: 'toys.failing' failed at failing.py:14 (RuntimeError: no such toy here); "
        "run `qmix-jax check-env toys.failing` for details"
    )
    assert printed.err.startswith(f"error: group 0 (job 0): {line}; log {here}/sweep/submitit/")
    assert printed.err.count("\n") == 1
    index = index_of(here / "sweep")
    first, second = index["jobs"]
    assert (first["status"], first["failures"]) == ("failed", [line])
    assert (second["status"], second["failures"]) == ("finished", [])
    assert math.isfinite(second["objective"])
    logs = [here / "sweep" / name for name in index["groups"][0]["logs"]]
    assert "and a line that is indented" in logs[1].read_text()
    assert (here / "sweep" / second["directory"] / "curves.png").is_file()


# Resuming


@pytest.mark.slow
def test_a_pre_empted_group_resumes_from_its_checkpoint(here):
    configs = [composition.load(*TINY, "algo=vdn", f"seed={seed}") for seed in (0, 1)]
    jobs = [api.Job(cfg, here / "runs" / str(cfg.seed)) for cfg in configs]
    executor = submitit.AutoExecutor(here / "logs", cluster="local", local_max_num_timeout=0)
    executor.update_parameters(timeout_min=60)
    job = executor.submit(preempted.Preempted(jobs, here / "group"))
    outcome = job.result()
    assert {p.name for p in (here / "runs").iterdir()} == {"0", "1"}
    output = job.stdout()
    assert output.count("resume: from ") == 1 and output.count("Requeued job") == 1
    for seed in (0, 1):
        manifest = json.loads((here / "runs" / str(seed) / "manifest.json").read_text())
        assert manifest["reached"]["interrupted"] is False and len(manifest["resumed"]) == 1
        alone = api.train(configs[seed], here / "alone" / str(seed))
        assert rows(alone.directory) == rows(here / "runs" / str(seed))
    assert [run.config.seed for run in outcome.runs] == [0, 1]
    assert all(math.isfinite(run.objective) for run in outcome.runs)


@pytest.mark.slow
def test_finished_runs_are_not_trained_again(swept, tmp_path, monkeypatch):
    folder, _ = swept
    ended = index_of(folder / "submitted")["jobs"][:2]
    jobs = []
    for job in ended:
        path = tmp_path / job["directory"]
        shutil.copytree(folder / "submitted" / job["directory"], path)
        loaded = config.load(yaml.safe_load((path / "config.yaml").read_text()))
        jobs.append(api.Job(loaded, path))
    monkeypatch.setattr(population, "compile_programs", None)
    outcome = group_task.GroupTask(jobs, tmp_path)()
    assert [run.objective for run in outcome.runs] == [job["objective"] for job in ended]
    assert math.isnan(outcome.train_s)


# Ctrl-C


def interrupt_after(monkeypatch, n_polls):
    """Sends Ctrl-C after `n_polls` polls."""
    poll, polled = job_queue.JobQueue._poll, []

    def poll_or_interrupt(self, number):
        if len(polled) == n_polls:
            raise KeyboardInterrupt
        polled.append(number)
        poll(self, number)

    monkeypatch.setattr(job_queue.JobQueue, "_poll", poll_or_interrupt)


@pytest.mark.slow
def test_ctrl_c_cancels_local_processes(here, monkeypatch, capsys):
    started = []
    submit_all = job_queue.JobQueue._submit

    def record(self):
        submit_all(self)
        started.extend(self._running.values())

    monkeypatch.setattr(job_queue.JobQueue, "_submit", record)
    interrupt_after(monkeypatch, 0)
    long = "trainer.env_steps=5_000_000"  # it is cancelled
    assert run(*LOCAL, *TINY, long, "algo=vdn,iql", "hydra.sweep.dir=sweep") == 130
    (job,) = started
    # It may have ended its run early; otherwise it has no result.
    assert job.done()
    if job.paths.result_pickle.exists():
        assert job.exception() is not None or all(run.interrupted for run in job.result().runs)
    assert "group 0 (job 0): cancelled" in capsys.readouterr().out
    statuses = [job["status"] for job in index_of(here / "sweep")["jobs"]]
    assert statuses == ["cancelled", "waiting"]


SBATCH = """#!/bin/sh
cp "$1" "$PWD/batch.sh"
echo Submitted batch job 12
"""
SACCT = """#!/bin/sh
echo 'JobID|State|NodeList'
echo '12_0|RUNNING|node1'
echo '12_1|PENDING|'
"""


def fake_slurm(folder, sbatch=SBATCH):
    """Replaces the commands of SLURM that the launcher and submitit use; nothing runs."""
    binaries = folder / "bin"
    binaries.mkdir()
    for name, text in (("srun", "#!/bin/sh\n"), ("sbatch", sbatch), ("sacct", SACCT)):
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    return str(binaries)


@pytest.mark.slow
def test_ctrl_c_does_not_cancel_jobs_of_slurm(here, monkeypatch, capsys):
    monkeypatch.setenv("PATH", fake_slurm(here), prepend=os.pathsep)
    interrupt_after(monkeypatch, 2)
    options = (
        "hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=90",
        "hydra.launcher.cpus_per_task=4", "hydra.launcher.gpus_per_node=1",
        "hydra.launcher.mem_gb=16", "hydra.launcher.array_parallelism=1",
        "hydra.launcher.setup=[module load cuda]",
        "+hydra.launcher.additional_parameters.exclude=node7",
    )  # fmt: skip
    jobs = ("algo=vdn,iql", "seed=0,1", "hydra.sweep.dir=sweep")
    assert run(*SLURM, *options, *TINY, *jobs) == 130
    printed = capsys.readouterr().out
    assert "group 0 (jobs 0, 1): submitted as 12_0" in printed
    assert "group 0 (jobs 0, 1): running\n" in printed
    assert "group 1 (jobs 2, 3): pending\n" in printed
    assert "still running: 12_0 12_1" in printed
    assert "squeue -j 12_0,12_1\n" in printed and "scancel 12_0 12_1\n" in printed
    statuses = [job["status"] for job in index_of(here / "sweep")["jobs"]]
    assert statuses == ["training"] * 2 + ["submitted"] * 2
    batch = (here / "batch.sh").read_text()
    for line in (
        "--partition=gpu", "--time=90", "--cpus-per-task=4", "--gpus-per-node=1", "--mem=16GB",
        "--array=0-1%1", "--exclude=node7", "--signal=USR2@90", "--job-name=qmix_jax",
    ):  # fmt: skip
        assert f"#SBATCH {line}\n" in batch, batch
    assert "\nmodule load cuda\n" in batch
    assert "srun --unbuffered" in batch and " --cpus-per-task=4 " in batch


# Errors

REFUSED = [
    (LOCAL, ("hydra.launcher.timeout_min=soon",), "config: hydra.launcher.timeout_min='soon': "),
    (LOCAL, ("hydra.launcher.array_parallelism=0",), "config: hydra.launcher.array_parallelism=0"),
    (LOCAL, ("+hydra.launcher.qos=high",), "config: unknown key 'hydra.launcher.qos'; allowed: "),
    (
        LOCAL,
        ("hydra.launcher.qos=high",),
        "config: unknown key 'hydra.launcher.qos'; did you mean ",
    ),
    (
        ("train", "-m", "hydra/launcher=fusd"),
        (),
        "unknown choice hydra/launcher=fusd; did you mean",
    ),
    (SLURM, ("hydra.launcher.setup=module",), "config: hydra.launcher.setup='module': "),
    (SLURM, ("hydra.launcher.mem_gb=-1",), "config: hydra.launcher.mem_gb=-1: "),
    (SLURM, (), "launcher: hydra/launcher=fused_slurm finds no SLURM here (no `srun` on PATH)"),
    (LOCAL, ("hparams.gama=0.9,0.8",), "did you mean 'hparams.gamma'?"),
    (LOCAL, ("seed=0,1", "hydra.sweep.subdir=same"), "jobs 0 and 1 both write to"),
    (
        LOCAL,
        ("hydra.sweep.subdir=.",),
        "is not empty; resume it with resume=auto, or choose another",
    ),
    (LOCAL, ("replay.capacity=8",), "replay.batch_size=32"),
    (
        LOCAL,
        ("algo=qmix,vdn", "hydra.launcher.max_programs=1"),
        "sweep: 2 jobs need 2 compiled programs, more than hydra.launcher.max_programs=1",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "arguments", "message"), REFUSED)
def test_mistakes_are_one_line_and_nothing_is_submitted(
    launcher, arguments, message, here, monkeypatch, capsys
):
    monkeypatch.setattr(job_queue, "JobQueue", None)
    assert run(*launcher, *TINY, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert message in error
    assert not list(here.rglob("index.json"))


def test_a_missing_extra_is_named(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    for launcher in (LOCAL, SLURM):
        assert run(*launcher, *TINY, "seed=0,1") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "pip install 'qmix-jax[slurm]'" in error
    assert not list(here.rglob("submitit"))


def test_a_refused_submission_is_one_line(here, monkeypatch, capsys):
    sbatch = "#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n"
    monkeypatch.setenv("PATH", fake_slurm(here, sbatch), prepend=os.pathsep)
    assert run(*SLURM, *TINY, "seed=0,1", "hydra.sweep.dir=sweep") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "refused: sbatch: error: invalid partition specified: gpu; change hydra." in error
    assert {job["status"] for job in index_of(here / "sweep")["jobs"]} == {"refused"}
    assert not (here / "sweep" / "0_two_step_qmix").exists()


# Parts


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "Job (task=0) failed during processing with trace:\n----\n"
            "Traceback (most recent call last):\n"
            '  File "a.py", line 1, in <module>\n    f()\n    ^^^\n'
            "ValueError: what\n    more\n----\nYou can check full logs\n",
            "ValueError: what",
        ),
        (
            'Traceback (most recent call last):\n  File "a.py", line 1\n    f()\n'
            "KeyError: 'first'\n\nDuring handling of the above exception, another exception "
            'occurred:\n\nTraceback (most recent call last):\n  File "b.py", line 2\n    g()\n'
            "qmix_jax.config.ConfigError: memory: too little\n",
            "memory: too little",
        ),
        (
            "Job 12 with path x\nhas not produced any output (state: FAILED)\nError stream:\n",
            "Job 12 with path x has not produced any output (state: FAILED)",
        ),
    ],
)
def test_first_line_of_an_error(text, line):
    assert job_queue.first_line(text) == line


def test_long_lists_of_jobs_are_shortened():
    assert submit._job_list((3,), 0) == "job 3"
    assert submit._job_list((0, 2), 10) == "jobs 10, 12"
    assert submit._job_list(range(100), 0) == "jobs 0, 1, 2, 3, 4, ..., 99"


@pytest.mark.parametrize(
    ("name", "model"), [("slurm", submit.SlurmOptions), ("local", submit.LocalOptions)]
)
def test_the_yaml_file_lists_every_option(name, model):
    path = composition.directory() / "hydra" / "launcher" / f"fused_{name}.yaml"
    options = yaml.safe_load(path.read_text())
    assert set(options) == {"_target_", *model.model_fields}
    del options["_target_"]
    assert config.validate(model, options, ()).model_dump() == options


def test_a_job_that_ignores_its_cancellation_is_cancelled_again(monkeypatch):
    calls = []
    job = types.SimpleNamespace(cancel=lambda: calls.append(1), done=lambda: len(calls) > 1)
    monkeypatch.setattr(job_queue, "_POLL_S", 0.0)
    monkeypatch.setattr(job_queue, "_RETRY_S", 0.0)
    job_queue._wait_cancelled(job)
    assert len(calls) == 2
