"""Weights & Biases in offline mode: its files, read back record by record."""

import json
import struct
import time

import pytest
from toys import members

from qmix_jax import config
from qmix_jax.loggers import base, wandb

COLUMNS = ("eval/return",)
BLOCK = 32768


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))


def records(path):
    """Records of a `.wandb` file, a LevelDB log after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, offset, parts = path.read_bytes(), 7, b""
    while offset + 7 <= len(data):
        left = BLOCK - offset % BLOCK
        if left < 7:
            offset += left
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + 7])
        parts += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # a full record, or its last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def finished(path):
    """All records, after the process of W&B has written the last one."""
    deadline = time.monotonic() + 60
    while not (written := list(records(path))) or not written[-1].HasField("exit"):
        assert time.monotonic() < deadline, path
        time.sleep(0.05)
    return written


def read(directory, name):
    """(run record, logged rows) of the W&B runs with this name, in order of time."""
    runs = []
    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        all_records = finished(path)
        (run,) = [r.run for r in all_records if r.HasField("run")][:1]
        rows = [
            {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in r.history.item}
            for r in all_records
            if r.HasField("history")
        ]
        if run.display_name == name:
            runs.append((run, rows))
    return runs


def run(directory, resumed_after=None):
    cfg = members.load(seed=3, seeds=2, hparams={"gamma": 0.9})
    return base.RunInfo(directory, config.dump(cfg), (3, 4), COLUMNS, resumed_after)


def write(logger, *steps):
    for step in steps:
        shared = {"kind": "eval", "env_steps": step, "update": 1, "gradient_step": 2}
        logger.write([{**shared, "seed": s, "eval/return": step * s} for s in (3, 4)])
    logger.close(False)


@pytest.mark.slow
def test_offline_each_seed_is_a_run_of_one_group_that_resumes(tmp_path):
    cfg = wandb.Config(mode="offline", project="coop", tags=("a", "b"))
    logger = wandb.make(cfg, run(tmp_path))
    assert "wandb sync" in logger.where
    write(logger, 0, 50)
    write(wandb.make(cfg, run(tmp_path, resumed_after={3: 0, 4: 0})), 50, 100)
    runs = {seed: read(tmp_path, f"tiny-qmix-seed{seed}") for seed in (3, 4)}
    for seed, ((first, rows), (second, later)) in runs.items():
        assert first.project == "coop" and list(first.tags) == ["a", "b"]
        assert first.run_group == "/".join(tmp_path.parts[-3:])
        settings = {item.key: json.loads(item.value_json) for item in first.config.update}
        assert settings["hparams"]["gamma"] == 0.9 and settings["seed"] == seed
        assert [(r["env_steps"], r["eval/return"]) for r in rows] == [(0, 0), (50, 50 * seed)]
        assert second.run_id == first.run_id
        assert [(r["_step"], r["env_steps"]) for r in later] == [(50, 50), (100, 100)]
    assert runs[3][0][0].run_id != runs[4][0][0].run_id


@pytest.mark.slow
def test_online_mode_needs_a_login_before_the_run(tmp_path):
    with pytest.raises(config.ConfigError, match=r"no API key; run `wandb login`"):
        wandb.check(wandb.Config())


def test_the_configured_mode_has_precedence_over_the_environment(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.check(wandb.Config())  # needs no login
    wandb.check(wandb.Config(mode="disabled"))
    assert wandb._mode(wandb.Config(mode="disabled")) == "disabled"
