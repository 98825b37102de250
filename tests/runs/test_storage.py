"""Metrics read back equal; run directories are never reused."""

import json
import math

import numpy as np
import pytest

from qmix_jax import config
from qmix_jax.runs import storage


def row(kind="train", env_steps=100, seed=0, **metrics):
    keys = {"kind": kind, "env_steps": env_steps, "update": 1, "gradient_step": 8, "seed": seed}
    return {**keys, **metrics}


def test_float32_and_counts_read_back_exactly(tmp_path):
    values = np.random.default_rng(0).normal(size=200).astype(np.float32) * np.float32(1e-3)
    values[:3] = np.float32([0.1, 1e-30, 3e38])
    with storage.MetricsFiles(tmp_path, ["train/loss", "eval/return"]) as files:
        files.write(
            row(env_steps=2**40 + i, **{"train/loss": value}) for i, value in enumerate(values)
        )
    metrics = storage.read_metrics(tmp_path / "metrics.csv")
    np.testing.assert_array_equal(metrics["train/loss"].astype(np.float32), values)
    np.testing.assert_array_equal(metrics["env_steps"], 2**40 + np.arange(200))
    assert np.isnan(metrics["eval/return"]).all()
    assert set(metrics["kind"]) == {"train"}


def test_layout_of_both_files(tmp_path):
    with storage.MetricsFiles(tmp_path, ["train/loss", "eval/return"]) as files:
        files.write([row(**{"train/loss": np.float32(0.1)}), row("eval", **{"eval/return": 2.0})])
        files.write([row('a "b", c', **{"train/loss": math.inf})])
        written = (tmp_path / "metrics.csv").read_text()
    assert written.splitlines() == [
        "kind,env_steps,update,gradient_step,seed,train/loss,eval/return",
        "train,100,1,8,0,0.1,",
        "eval,100,1,8,0,,2.0",
        '"a ""b"", c",100,1,8,0,inf,',
    ]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert records[0] == row(**{"train/loss": 0.1})
    assert records[1] == row("eval", **{"eval/return": 2.0})
    assert records[2]["train/loss"] is None
    metrics = storage.read_metrics(tmp_path / "metrics.csv")
    assert list(metrics["kind"]) == ["train", "eval", 'a "b", c']
    assert metrics["train/loss"][2] == math.inf


def test_rows_are_readable_as_soon_as_they_are_written(tmp_path):
    with storage.MetricsFiles(tmp_path, ["x"]) as files:
        assert storage.read_metrics(tmp_path / "metrics.csv")["x"].shape == (0,)
        files.write([row(x=1.0)])
        assert storage.read_metrics(tmp_path / "metrics.csv")["x"] == 1.0
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_an_unfinished_last_line_is_ignored(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("kind,env_steps,x\ntrain,1,2.5\ntrain,2,12")
    np.testing.assert_array_equal(storage.read_metrics(path)["x"], [2.5])


@pytest.mark.parametrize("bad", [row(typo=1.0), {"kind": "train", "x": 1.0}])
def test_rows_with_unknown_or_missing_columns_are_refused(tmp_path, bad):
    with storage.MetricsFiles(tmp_path, ["x"]) as files, pytest.raises(ValueError):
        files.write([bad])


def test_a_used_directory_is_refused(tmp_path):
    storage.MetricsFiles(storage.claim(tmp_path), ["x"]).__exit__()
    for reuse in (
        lambda: storage.claim(tmp_path),
        lambda: storage.MetricsFiles(tmp_path, ["x"]),
    ):
        with pytest.raises(config.ConfigError, match=r"hydra\.run\.dir") as caught:
            reuse()
        assert str(tmp_path) in str(caught.value)


def test_claim_creates_parents_and_writes_nothing(tmp_path):
    path = storage.claim(tmp_path / "a" / "b")
    assert path.is_dir()
    assert not list(path.iterdir())


def test_an_unwritable_directory_is_reported_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(config.ConfigError, match="cannot write") as caught:
        storage.claim(tmp_path / "file" / "run")
    assert "\n" not in str(caught.value)


def test_missing_metrics_are_refused(tmp_path):
    with pytest.raises(config.ConfigError, match=r"metrics\.csv"):
        storage.read_metrics(tmp_path / "metrics.csv")


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), storage.atomic(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_plain_converts_for_json():
    value = {1: np.float32([0.1, math.nan]), "b": (np.int64(3), np.bool_(True)), "c": None}
    assert storage.plain(value) == {"1": [0.1, None], "b": [3, True], "c": None}
