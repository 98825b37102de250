"""Two processes write the results of one, and both end if one fails."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import types

import jax
import pytest
from toys import members, worker
from toys.comparison import assert_equal, rows

from qmix_jax import config
from qmix_jax.machine import process_group
from qmix_jax.runs import checkpoint, parameters

TESTS = pathlib.Path(__file__).resolve().parent
FILES = {
    "config.yaml", "curves.png", "manifest.json", "metrics.csv", "metrics.jsonl",
    "parameters_best.npz", "parameters_final.npz",
}  # fmt: skip


def free_port():
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


def start_two(folder, *arguments):
    """Starts `python <arguments>` in two processes that form a process group."""
    common = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
    }
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={**common, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]


def wait(processes, seconds=300):
    """Returns the exit code and output of each process."""
    outputs = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=seconds)
            outputs.append(types.SimpleNamespace(code=process.returncode, out=out, err=err))
    finally:
        for process in processes:
            process.kill()
    return outputs


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    population = worker.ONE_DEVICE
    return folder, worker.train_one(folder, population) + worker.train_many(folder, population)


@pytest.fixture(scope="module")
def distributed(tmp_path_factory, alone):
    """Runs after `alone`, so that the compiled programs are in the cache."""
    folder = tmp_path_factory.mktemp("distributed")
    processes = wait(start_two(folder, "-m", "toys.worker", "train", ""))
    assert [process.code for process in processes] == [0, 0], "\n".join(
        process.err for process in processes
    )
    return folder, processes


RUNS = ["one", "0", "1", "2"]
"""A run of three seeds; two jobs of one program; a job with fewer seeds than processes."""


def assert_equal_runs(distributed, single):
    """Checks that two run directories have equal contents."""
    assert {path.name for path in distributed.iterdir()} == FILES
    assert rows(distributed) == rows(single)
    assert len(rows(distributed)) > 5
    lines = [(folder / "metrics.jsonl").read_text().count("\n") for folder in (distributed, single)]
    assert lines[0] == lines[1]
    for name in ("parameters_final.npz", "parameters_best.npz"):
        pair = [parameters.load_parameters(folder / name) for folder in (distributed, single)]
        assert jax.tree.structure(pair[0]) == jax.tree.structure(pair[1])
        assert_equal(*pair)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_two_processes_write_equal_runs(distributed, alone, run):
    folders = distributed[0] / run, alone[0] / run
    assert_equal_runs(*folders)
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in folders]
    shares = {"one": [2, 1], "0": [2, 1], "1": [2, 1], "2": [1, 0]}
    assert manifests[0]["members_of_processes"] == shares[run]
    for key in ("updates", "env_steps", "gradient_steps", "interrupted", "failures"):
        assert manifests[0]["reached"][key] == manifests[1]["reached"][key]
    assert manifests[0]["config"]["seeds"] == manifests[1]["config"]["seeds"]


@pytest.mark.slow
def test_both_processes_return_all_results_and_the_first_one_prints(distributed, alone):
    folder, (first, second) = distributed
    expected = [result.objective for result in alone[1]]
    for index in range(2):
        assert json.loads((folder / f"objectives-{index}.json").read_text()) == expected
    assert "2 processes: this one trains 2 of 3 members" in first.out
    assert second.out == ""


@pytest.mark.slow
def test_processes_save_checkpoints_independently(distributed):
    """Each writes to its own folder, without waiting for the other."""
    for index in range(2):
        assert json.loads((distributed[0] / f"notes-{index}.json").read_text()) == []
        (last,) = (distributed[0] / f"alone-{index}" / checkpoint.FOLDER).glob("[0-9]*")
        assert last.name == "39"


@pytest.mark.slow
def test_the_index_lists_every_job(distributed, alone):
    index, expected = (
        json.loads((folder / "index.json").read_text()) for folder, _ in (distributed, alone)
    )
    assert index["jobs"] == expected["jobs"]
    assert {job["status"] for job in index["jobs"]} == {"finished"}


@pytest.mark.slow
def test_two_processes_resume_after_a_signal_and_after_a_kill(alone, tmp_path):
    """A signal to one process ends both, killing one makes the other fail; both then resume."""
    processes = wait(start_two(tmp_path, "-m", "toys.worker", "resume", "1"))
    assert [process.code for process in processes] == [1, -9], "\n".join(
        process.err for process in processes
    )
    assert "error: process 1 of 2 is lost" in processes[0].err
    assert (tmp_path / "1" / ".part-1").exists()
    processes = wait(start_two(tmp_path, "-m", "toys.worker", "resume", "1"))
    assert [process.code for process in processes] == [0, 0], "\n".join(
        process.err for process in processes
    )
    assert "resume: from " in processes[0].out or "has ended" in processes[0].out
    for run in RUNS[1:3]:
        assert_equal_runs(tmp_path / run, alone[0] / run)
    manifest = json.loads((tmp_path / "1" / "manifest.json").read_text())
    assert manifest["members_of_processes"] == [2, 1] and manifest["resumed"]


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_ends_all_processes_with_one_line(tmp_path, failing):
    processes = wait(start_two(tmp_path, "-m", "toys.worker", "fail", str(failing)))
    assert [process.code for process in processes] == [1, 1]
    expected = f"error: process {failing} of 2 failed: the disk is full"
    assert processes[1 - failing].err.splitlines()[-1] == expected
    assert "Traceback" not in processes[1 - failing].err
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {".part-0", ".part-1"}, "parts are neither merged nor removed"


@pytest.mark.slow
def test_the_first_process_ends_if_the_other_is_killed(tmp_path):
    first, second = wait(start_two(tmp_path, "-m", "toys.worker", "kill", "1"))
    assert second.code == -9
    assert first.code == 1
    assert "error: process 1 of 2 is lost: no heartbeat for 3 s" in first.err


def test_shares_are_contiguous_and_differ_by_at_most_one():
    for n_members in (1, 2, 3, 7, 8, 9):
        for count in (1, 2, 3, 4):
            shares = [
                process_group.ProcessGroup(index, count).share(n_members) for index in range(count)
            ]
            assert [member for share in shares for member in share] == list(range(n_members))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1
            assert len(shares[0]) == max(map(len, shares)) >= 1


DISTRIBUTED = {"population": {"distributed": True}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("127.0.0.1:1234", "2", ""), r"JAX_PROCESS_ID not set, but others of .* are; set all"),
        (("", "2", "0"), r"JAX_COORDINATOR_ADDRESS not set"),
        (("127.0.0.1", "2", "0"), r"JAX_COORDINATOR_ADDRESS=127\.0\.0\.1, .* allowed: host:port"),
        (("127.0.0.1:1234", "two", "0"), r"JAX_NUM_PROCESSES=two, .* two numbers"),
        (("127.0.0.1:1234", "2", "2"), r"JAX_PROCESS_ID=2 with JAX_NUM_PROCESSES=2; allowed: 0 to"),
    ],
)
def test_bad_environment_variables_are_reported_in_one_line(monkeypatch, values, message):
    for name, value in zip(process_group.VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(config.ConfigError, match=message):
        process_group.join([members.load(**DISTRIBUTED)])


def test_a_port_in_use_is_reported_in_one_line(monkeypatch):
    with socket.create_server(("", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for name, value in zip(process_group.VARIABLES, (address, "2", "0"), strict=True):
            monkeypatch.setenv(name, value)
        with pytest.raises(
            config.ConfigError, match=r"cannot listen on port \d+ \(Address already"
        ):
            process_group.join([members.load(**DISTRIBUTED)])


def test_jobs_must_agree_on_population_distributed():
    with pytest.raises(config.ConfigError, match="for some jobs only"):
        process_group.join([members.load(), members.load(**DISTRIBUTED)])


@pytest.mark.slow
def test_a_missing_cluster_is_reported_in_one_line_with_exit_code_2(
    run_python, monkeypatch, tmp_path
):
    for name in process_group.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    process = run_python("-m", "qmix_jax", "train", "population.distributed=true")
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith(
        "error: processes: population.distributed=true, but there is no"
    )
    assert process.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.csv"))
