"""Weights & Biases offline: its files are read back record by record."""

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
def _nobodys_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "settings"))


def records(path):
    """Every record of a `.wandb` file, a LevelDB log after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = BLOCK - place % BLOCK
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def finished(path):
    """All records, once the last one is there: W&B's own process writes them."""
    deadline = time.monotonic() + 60
    while not (found := list(records(path))) or not found[-1].HasField("exit"):
        assert time.monotonic() < deadline, path
        time.sleep(0.05)
    return found


def read(directory, name):
    """(the run's record, its logged rows) of the W&B runs called so, in order of time."""
    found = []
    for path in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        all_records = finished(path)
        (run,) = [r.run for r in all_records if r.HasField("run")][:1]
        rows = [
            {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in r.history.item}
            for r in all_records
            if r.HasField("history")
        ]
        if run.display_name == name:
            found.append((run, rows))
    return found


def run(directory, resumed_after=None):
    cfg = members.load(seed=3, seeds=2, hparams={"gamma": 0.9})
    return base.RunInfo(directory, config.dump(cfg), (3, 4), COLUMNS, resumed_after)


def write(logger, *steps):
    for step in steps:
        shared = {"kind": "eval", "env_steps": step, "update": 1, "gradient_step": 2}
        logger.write([{**shared, "seed": s, "eval/return": step * s} for s in (3, 4)])
    logger.close(False)


@pytest.mark.slow
def test_offline_each_seed_is_a_run_of_one_group_and_goes_on(tmp_path):
    cfg = wandb.Config(mode="offline", project="coop", tags=("a", "b"))
    logger = wandb.make(cfg, run(tmp_path))
    assert "wandb sync" in logger.where
    write(logger, 0, 50)
    write(wandb.make(cfg, run(tmp_path, resumed_after={3: 0, 4: 0})), 50, 100)
    found = {seed: read(tmp_path, f"tiny-qmix-seed{seed}") for seed in (3, 4)}
    for seed, ((first, rows), (second, later)) in found.items():
        assert first.project == "coop" and list(first.tags) == ["a", "b"]
        assert first.run_group == "/".join(tmp_path.parts[-3:])
        told = {item.key: json.loads(item.value_json) for item in first.config.update}
        assert told["hparams"]["gamma"] == 0.9 and told["seed"] == seed
        assert [(r["env_steps"], r["eval/return"]) for r in rows] == [(0, 0), (50, 50 * seed)]
        assert second.run_id == first.run_id
        assert [(r["_step"], r["env_steps"]) for r in later] == [(50, 50), (100, 100)]
    assert found[3][0][0].run_id != found[4][0][0].run_id


@pytest.mark.slow
def test_online_without_a_login_is_told_before_the_run(tmp_path):
    with pytest.raises(config.ConfigError, match=r"no API key; run `wandb login`"):
        wandb.check(wandb.Config())


def test_the_environment_chooses_the_mode_unless_the_configuration_does(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.check(wandb.Config())  # needs no login
    wandb.check(wandb.Config(mode="disabled"))
    assert wandb._mode(wandb.Config(mode="disabled")) == "disabled"
