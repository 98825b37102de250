"""`qmix_jax.train`: its files, its result, and its errors."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from toys import members
from toys.comparison import assert_equal

import qmix_jax
from qmix_jax import api, config, population
from qmix_jax.machine import signals
from qmix_jax.runs import checkpoint, metadata, parameters, storage


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "run"
    cfg = members.small(seeds=3, seed=7)
    return api.train(cfg, directory), cfg


def test_a_run_directory_is_complete(finished):
    result, cfg = finished
    names = {path.name for path in result.directory.iterdir()}
    assert names == {
        "checkpoints",
        "config.yaml",
        "manifest.json",
        "metrics.csv",
        "metrics.jsonl",
        "parameters_final.npz",
        "parameters_best.npz",
        "curves.png",
    }
    mapping = metadata.read_config(result.directory / "config.yaml")
    assert config.load(mapping) == cfg
    manifest = json.loads((result.directory / "manifest.json").read_text())
    assert manifest["reached"]["env_steps"] == result.plan.env_steps
    assert manifest["parameters_per_member"]["agent"] > 0
    assert manifest["precision"] == "default" and manifest["compile_s"]["total"] > 0
    assert manifest["population"] == {"members": 3, "inert_members": 1, "batching": "map"}


def test_load_run_returns_the_result_of_training(finished, tmp_path):
    result, _ = finished
    loaded = qmix_jax.load_run(result.directory)
    assert (loaded.config, loaded.plan, loaded.failures) == (result.config, result.plan, {})
    for name in ("parameters", "best_parameters", "metrics"):
        pair = (getattr(record, name) for record in (loaded, result))
        jax.tree.map(np.testing.assert_array_equal, *pair)
    with pytest.raises(config.ConfigError, match="give a run directory"):
        qmix_jax.load_run(tmp_path)


def test_a_result_prints_in_a_few_lines(finished):
    result, _ = finished
    text = repr(result)
    assert text.startswith("Result(name=tiny, env=toys.counting, algo=vdn, seeds=7..9, env_steps=")
    assert len(text) < 1_000 and len(repr((result,) * 3)) < 3_000
    assert "failures" not in text and "interrupted" not in text
    assert "<td" in result._repr_html_() and "<script" not in result._repr_html_()


def test_to_pandas_returns_a_data_frame(finished):
    result, _ = finished
    evaluations, training = result.to_pandas(), result.to_pandas("train")
    assert len(evaluations) + len(training) == len(result.metrics["seed"])
    assert set(evaluations["seed"]) == {7, 8, 9} and evaluations["env_steps"].dtype == int
    assert "eval/return" in evaluations and "train/loss" not in evaluations
    assert "train/loss" in training and "eval/return" not in training
    with pytest.raises(config.ConfigError, match=r"kind='evaluation'; did you mean 'eval'\?"):
        result.to_pandas("evaluation")


def test_without_pandas_the_error_names_the_install_command(finished, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(config.ConfigError, match=r"pip install 'qmix-jax\[pandas\]'"):
        finished[0].to_pandas()


def test_plot_draws_learning_curves(finished):
    result, _ = finished
    titles = {panel.get_title(loc="left") for panel in result.plot().get_axes()}
    assert {"Greedy return", "Loss"} <= titles
    (panel,) = result.plot("eval/length").get_axes()
    assert panel.get_title(loc="left") == "eval/length"
    assert result.plot("eval/return")._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(config.ConfigError, match="did you mean 'eval/return'"):
        result.plot("return")


def test_metrics_have_one_row_per_kind_step_and_seed(finished):
    result, _ = finished
    rows = result.metrics
    keys = list(zip(rows["kind"], rows["env_steps"], rows["seed"], strict=True))
    assert len(set(keys)) == len(keys)
    assert set(rows["seed"]) == {7, 8, 9}
    evals = rows["kind"] == "eval"
    plan = result.plan
    points = [*range(plan.eval_every, plan.n_updates, plan.eval_every), plan.n_updates]
    assert sorted(set(rows["env_steps"][evals])) == [0, *map(plan.env_steps_at, points)]
    assert np.isfinite(rows["eval/return"][evals]).all()
    assert np.isnan(rows["eval/return"][~evals]).all()
    for name in ("loss", "td_error_abs", "q_taken", "target", "grad_norm"):
        assert np.isfinite(rows[f"train/{name}"][~evals]).all()
    np.testing.assert_array_equal(rows["gradient_step"], rows["update"] * plan.gradient_steps)


def test_saved_parameters_equal_the_returned_ones(finished):
    result, cfg = finished
    saved = parameters.load_parameters(result.directory / "parameters_final.npz")
    assert {leaf.shape[0] for leaf in members.leaves(saved)} == {3}, "members first"
    assert_equal(saved, result.parameters)
    # The host loop does not change results.
    assert_equal(members.train(cfg).parameters, result.parameters)


def test_best_parameters_belong_to_the_best_evaluation(finished):
    result, _ = finished
    rows = result.metrics
    for i, seed in enumerate((7, 8, 9)):
        scores = rows["eval/return"][(rows["kind"] == "eval") & (rows["seed"] == seed)]
        kernel = result.best_parameters["agent"]["head"]["kernel"][i]
        is_final = np.array_equal(kernel, result.parameters["agent"]["head"]["kernel"][i])
        assert is_final == (np.argmax(scores) == len(scores) - 1)


def test_a_diverged_member_is_named_and_the_run_directory_is_complete(tmp_path):
    cfg = members.small(
        seeds=2,
        hparams={"learning_rate": {"start": 1e-3, "end": 1e38, "steps": 60}, "max_grad_norm": 1e30},
    )
    with pytest.raises(
        api.NonFiniteError,
        match=r"train/(loss|grad_norm) of seed [01] is not finite at update \d+",
    ):
        api.train(cfg, tmp_path / "run")
    rows = storage.read_metrics(tmp_path / "run" / "metrics.csv")
    assert (rows["kind"] == "eval").sum() >= 2
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert all("not finite" in text for text in manifest["reached"]["failures"].values())
    assert (tmp_path / "run" / "parameters_best.npz").exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
def test_a_signal_requests_a_stop_and_has_its_exit_code(number, code):
    before, received = signal.getsignal(number), threading.Event()
    with signals.SignalListener(received.set, lambda: None) as listener:
        os.kill(os.getpid(), number)
        assert received.wait(10.0) and listener.requested
    assert signals.exit_code() == code
    assert signal.getsignal(number) is before


@pytest.mark.slow
def test_a_signal_ends_a_run_with_complete_files(tmp_path):
    cfg = members.small(
        trainer={"env_steps": 500_000_000, "log_every": 1_000_000}, eval={"every": 500_000_000}
    )
    metrics = tmp_path / "run" / "metrics.csv"

    def interrupt_once_it_trains():
        while not (metrics.exists() and metrics.read_text().count("\n") > 1):
            time.sleep(0.1)
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=interrupt_once_it_trains)
    watcher.start()
    result = api.train(cfg, tmp_path / "run")
    watcher.join()
    assert result.interrupted
    assert (tmp_path / "run" / "curves.png").exists()
    rows = result.metrics
    last = rows["update"].max()
    assert 0 < last < result.plan.n_updates
    assert ((rows["kind"] == "train") & (rows["update"] == last)).sum() == 1, (
        "the last row is written"
    )
    saved = checkpoint.newest(tmp_path / "run" / checkpoint.FOLDER)
    assert saved.meta["groups"][0]["update"] == last, "the last update is saved"


PQN = {"algo": {"name": "pqn", "algorithm": "pqn", "mixer": {"name": "vdn"}}}
BAD = {
    "plan: replay.batch_size=64 exceeds replay.capacity=12; raise capacity or lower batch_size": {
        "replay": {"batch_size": 64}
    },
    "plan: replay.capacity=10 is not a multiple of trainer.n_envs=3; use 12": {
        "replay": {"capacity": 10}
    },
    "plan: trainer.window=4 is shorter than the longest episode (5 steps); "
    "raise it to at least 5, set null, or use trainer.collector=window": {"trainer": {"window": 4}},
    "plan: trainer.burn_in=2 with trainer.collector=segment, whose sequences start with an "
    "episode; set it to 0, or collector=window": {"trainer": {"burn_in": 2}},
    "plan: trainer.burn_in=4 exceeds trainer.window=3; lower it": {
        "trainer": {"collector": "window", "window": 3, "burn_in": 4}
    },
    "plan: replay.kind=on_policy with replay.batch_size=4, which does not divide "
    "trainer.n_envs=6; use 3": {"replay": {"kind": "on_policy"}, "trainer": {"n_envs": 6}, **PQN},
    "plan: replay.kind=on_policy with trainer.gradient_steps=2, not a multiple of the 3 "
    "minibatches of an epoch (trainer.n_envs / replay.batch_size); use 3": {
        "replay": {"kind": "on_policy", "batch_size": 1},
        **PQN,
    },
    "plan: replay.kind=on_policy with replay.capacity=12, but only the last rollout is stored; set "
    "it to null": {"replay": {"kind": "on_policy", "batch_size": 3}, **PQN},
    "algo: qmix does not fit: it learns from replay.kind=uniform or prioritised or transitions, "
    "got on_policy; algorithms that fit: pqn": {
        "replay": {"kind": "on_policy", "batch_size": 3, "capacity": None}
    },
    "algo: algorithm 'pqn' needs a mixer; set algo.mixer.name": {
        "algo": {"name": "pqn", "algorithm": "pqn", "mixer": None}
    },
    "algo: algorithm 'td' needs a mixer; set algo.mixer.name, or use 'iql' without one": {
        "algo": {"name": "qmix", "algorithm": "td", "mixer": None}
    },
    "algo: algorithm 'iql' has no joint value; set algo.mixer=null": {
        "algo": {"name": "iql", "algorithm": "iql", "mixer": {"name": "vdn"}}
    },
}


@pytest.mark.parametrize("message", BAD)
def test_an_invalid_setting_is_reported_in_one_line_before_anything_is_written(
    message, tmp_path, monkeypatch
):
    def fail(*args, **kwargs):
        raise AssertionError("compiled")

    monkeypatch.setattr(population, "compile_programs", fail)
    with pytest.raises(config.ConfigError) as error:
        api.train(members.load(**BAD[message]), tmp_path / "run")
    assert str(error.value) == message
    assert not (tmp_path / "run").exists()


def test_a_byte_budget_bounds_the_default_capacity(tmp_path):
    def planned(**replay):
        cfg = members.small(replay={"capacity": None, **replay})
        return members.program.build(cfg).plan

    free = planned()
    assert free.capacity == 201 and free.capacity % 3 == 0, "no more than the run collects"
    tight = planned(byte_budget=40 * free.sequence_bytes)
    assert tight.capacity == 39 and tight.replay_bytes <= 40 * free.sequence_bytes
    with pytest.raises(config.ConfigError, match=r"byte_budget=226 holds 1 sequences of 226 bytes"):
        planned(byte_budget=226)


def test_a_directory_that_cannot_be_written_is_an_error_before_compiling(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(population, "compile_programs", None)
    with pytest.raises(config.ConfigError, match=r"cannot write to .*choose another hydra.run.dir"):
        api.train(members.small(), tmp_path / "file" / "run")


def test_training_works_outside_the_main_thread(tmp_path):
    """As in a notebook; signals cannot be caught there."""
    cfg, results = members.small(seeds=3, seed=7), []
    thread = threading.Thread(target=lambda: results.append(api.train(cfg, tmp_path / "run")))
    thread.start()
    thread.join()
    assert results[0].plan.n_updates > 0


def test_public_names():
    assert qmix_jax.train is api.train
    assert qmix_jax.load_config is config.load
    assert qmix_jax.ConfigError is config.ConfigError


@pytest.mark.slow
def test_a_second_ctrl_c_ends_the_process_at_once(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from toys import members\nfrom qmix_jax import api\n"
        "cfg = members.small(trainer={'env_steps': 2_000_000_000, 'log_every': 2_000_000_000},\n"
        "                   eval={'every': 2_000_000_000})\n"
        "api.train(cfg, sys.argv[2])\n"
    )
    tests = pathlib.Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tests), str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": str(tests.parent)},
        stdout=subprocess.DEVNULL,
    )
    metrics = tmp_path / "run" / "metrics.csv"
    while not (metrics.exists() and metrics.read_text().count("\n") > 1):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(3.0)  # a compiled call of seconds is running now
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    assert process.wait(timeout=60) == 130
    assert time.monotonic() - started < 1.5
