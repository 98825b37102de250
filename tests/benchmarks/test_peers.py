"""The process around a fake peer, and real peers if their interpreters are set.

Real runs need interpreters with the peers' packages (`benchmarks/peers/README.md`) in
QMIX_JAX_JAXMARL_PYTHON and QMIX_JAX_JAXMARL_CHECKOUT, QMIX_JAX_EPYMARL_PYTHON and
QMIX_JAX_EPYMARL_CHECKOUT, QMIX_JAX_XUANCE_PYTHON.
"""

import ast
import dataclasses
import json
import os
import pathlib
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.peers import __main__ as command  # noqa: E402
from benchmarks.peers import base  # noqa: E402

FOLDER = ROOT / "benchmarks" / "peers"
WORK = base.Work(environment="mpe_spread", env_steps=416, seeds=2)

FAKE = """
import os, pathlib, subprocess, sys, time
sys.path.insert(0, {folder!r})
import worker_io

def execute(task, channel):
    work = task["work"]
    print("noise on stdout")
    print("noise on stderr", file=sys.stderr)
    if work["gamma"] == 0:
        raise worker_io.RefusalError("gamma=0 is not available; raise gamma")
    if work["gamma"] == 1:
        worker_io.need("no_such_package", "no-such-package==1.0")
    if work["hidden"] == 1:
        raise RuntimeError("first line\\nsecond line")
    if work["hidden"] == 2:
        os._exit(7)
    point = {{"env_steps": 208, "wall_seconds": 0.5, "win_rates": None,
              "returns": [worker_io.finite("nan"), -1.5]}}
    channel.update(version="fake 1.0", curve=[point], env_steps=208,
                   settings={{"HIDDEN": work["hidden"], "SET": os.environ.get("FAKE_SET")}},
                   notes=worker_io.environ_notes(task["environ"]))
    if work["hidden"] == 3:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (pathlib.Path(task["checkout"]) / "child").write_text(str(child.pid))
        time.sleep(60)
    channel.progress("fake: done")
    channel.update(env_steps=416, gradient_steps=2, learning_free_env_steps=208,
                   run_seconds=2.0, env_steps_per_s=416.0)

worker_io.main(execute)
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of the peer `fake`, registered for the test."""
    worker = tmp_path / "fake_worker.py"
    worker.write_text(FAKE.format(folder=str(FOLDER)))
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "train.py").touch()
    monkeypatch.setitem(base.PEERS, "fake", base.Peer(worker, "train.py"))
    return folder


def fake(checkout, work=WORK, **options):
    return base.run("fake", work, python=sys.executable, checkout=checkout, **options)


def test_an_outcome_survives_a_round_trip_through_json(checkout, capfd):
    outcome = fake(checkout, environ={"FAKE_SET": "yes"})
    assert outcome == base.Outcome(
        peer="fake",
        version="fake 1.0",
        settings={"HIDDEN": 64, "SET": "yes"},
        env_steps=416,
        gradient_steps=2,
        learning_free_env_steps=208,
        compile_seconds=None,
        run_seconds=2.0,
        env_steps_per_s=416.0,
        curve=(base.Point(env_steps=208, wall_seconds=0.5, returns=(None, -1.5)),),
        notes=("environment variable FAKE_SET=yes",),
    )
    assert base.outcome_from(json.loads(base.to_json(outcome))) == outcome
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == "fake: done\n"


def test_work_survives_a_round_trip_through_json():
    assert base.Work(**json.loads(base.to_json(WORK))) == WORK


def test_the_log_has_the_output_of_the_peer(checkout, tmp_path):
    fake(checkout, log=tmp_path / "log")
    assert (tmp_path / "log").read_text().splitlines() == ["noise on stdout", "noise on stderr"]


@pytest.mark.slow
def test_the_time_limit_is_reported_and_kills_the_worker_and_its_children(checkout):
    start = time.monotonic()
    outcome = fake(checkout, dataclasses.replace(WORK, hidden=3), timeout=2.0)
    assert time.monotonic() - start < 20
    assert outcome.limit == "> 2 s"
    assert (outcome.run_seconds, outcome.env_steps_per_s) == (None, None)
    assert (outcome.env_steps, len(outcome.curve)) == (208, 1)
    assert not _alive(int((checkout / "child").read_text()))


def _alive(pid):
    """Whether a process still runs after five seconds; zombies do not."""
    for _ in range(50):
        status = pathlib.Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"gamma": 0.0}, "fake: gamma=0 is not available; raise gamma"),
        ({"gamma": 1.0}, "no-such-package==1.0"),
        ({"hidden": 1}, "fake: RuntimeError: first line"),
        ({"hidden": 2}, "exit code 7"),
        ({"environment": "chess"}, "unknown environment 'chess'; allowed: smax_3m"),
    ],
)
def test_failures_are_one_line_errors(checkout, change, text):
    with pytest.raises(base.PeerError) as error:
        fake(checkout, dataclasses.replace(WORK, **change))
    assert text in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("peer", ["jaxmarl", "epymarl"])
def test_a_missing_checkout_is_a_one_line_error(peer, tmp_path):
    with pytest.raises(base.PeerError, match=f"^{peer}: needs a checkout with "):
        base.run(peer, WORK, python=sys.executable)
    with pytest.raises(base.PeerError, match=f"^{peer}: .* is not a checkout: it has no ") as error:
        base.run(peer, WORK, python=sys.executable, checkout=tmp_path)
    assert "\n" not in str(error.value)


def test_missing_interpreter_and_unknown_peer_are_one_line_errors(tmp_path):
    with pytest.raises(base.PeerError, match="no interpreter"):
        base.run("xuance", WORK, python=str(tmp_path / "python"))
    with pytest.raises(base.PeerError, match="unknown peer 'pymarl'; allowed: jaxmarl, "):
        base.run("pymarl", WORK, python=sys.executable)


def test_command_line_reads_settings():
    work = base.work_from("mpe_spread", ["env_steps=1e4", "learning_rate=5e-4", "evaluate=true"])
    assert work == base.Work("mpe_spread", 10_000, learning_rate=5e-4, evaluate=True)
    for wrong in (["hiden=3"], ["env_steps"], ["env_steps=many"], ["evaluate=2"], []):
        with pytest.raises(base.PeerError):
            base.work_from("mpe_spread", wrong)


def test_command_line_prints_one_line_errors(capsys):
    arguments = ["jaxmarl", "mpe_spread", "env_steps=1000", "--python", sys.executable]
    assert command.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: jaxmarl: needs a checkout")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*worker*.py")), ids=lambda path: path.name)
def test_workers_import_nothing_of_this_project(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert not imported & {"benchmarks", "qmix_jax", "base"}


def _options(peer, *names):
    """Options of `base.run` from environment variables; skips the test if one is missing."""
    variables = {name: f"QMIX_JAX_{peer.upper()}_{name.upper()}" for name in names}
    missing = [v for v in variables.values() if not os.environ.get(v)]
    if missing:
        pytest.skip(f"a real run of {peer} needs {' and '.join(missing)}")
    return {name: os.environ[variable] for name, variable in variables.items()}


@pytest.mark.slow
def test_jaxmarl_runs():
    options = _options("jaxmarl", "python", "checkout")
    work = base.Work("mpe_spread", 12_480, seeds=2, evaluate=True, eval_every=4_160, hidden=16)
    outcome = base.run("jaxmarl", work, **options, timeout=400, environ={"PJRT_NPROC": "4"})
    assert outcome.limit is None
    assert (outcome.env_steps, outcome.gradient_steps) == (12_480, 12)
    assert outcome.learning_free_env_steps == 9_984
    assert [point.env_steps for point in outcome.curve] == [0, 4_160, 8_320, 12_480]
    assert all(len(point.returns) == 2 for point in outcome.curve)


@pytest.mark.slow
def test_epymarl_runs():
    options = _options("epymarl", "python", "checkout")
    outcome = base.run("epymarl", base.Work("mpe_spread", 1_248, hidden=16), **options)
    assert (outcome.env_steps, outcome.gradient_steps) == (1_248, 3)
    assert outcome.learning_free_env_steps == 624


@pytest.mark.slow
def test_xuance_runs():
    options = _options("xuance", "python")
    work = base.Work("mpe_spread", 1_200, hidden=16, warm_up=600)
    outcome = base.run("xuance", work, **options)
    assert (outcome.env_steps, outcome.gradient_steps) == (1_200, 4)
    assert outcome.learning_free_env_steps == 400
