"""Manifests describe the run, not the user; configurations read back equal."""

import datetime
import json
import math
import platform
import socket
import subprocess
import types

import omegaconf
import pytest

from qmix_jax import config
from qmix_jax.runs import metadata

DEVICE = types.SimpleNamespace(platform="cpu", device_kind="cpu")


def test_manifest(monkeypatch):
    monkeypatch.setattr(metadata, "_git", lambda _: None)
    manifest = metadata.manifest(
        {"seeds": 2}, ["qmix-jax", "train"], (DEVICE, DEVICE), {"compile_s": 1.5}
    )
    assert manifest["device"] == {"platform": "cpu", "kind": "cpu", "count": 2}
    assert manifest["versions"]["python"] == platform.python_version()
    assert manifest["versions"]["jax"].count(".") >= 2
    assert manifest["command"] == ["qmix-jax", "train"]
    assert manifest["config"] == {"seeds": 2}
    assert manifest["compile_s"] == 1.5
    assert manifest["git"] is None
    assert datetime.datetime.fromisoformat(manifest["started"]).tzinfo is not None
    assert socket.gethostname() not in json.dumps(manifest)


def test_the_config_hash_depends_on_values_and_not_on_order():
    def config_hash(mapping):
        return metadata.manifest(mapping, "", (DEVICE,), {})["config_hash"]

    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


def test_the_version_of_a_missing_package_is_none():
    assert metadata._version("surely-not-installed") is None


def test_git_commit_dirty_flag_and_untracked_package(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)
        return tmp_path / "module.py"

    module = git("init", "-q")
    module.write_text("1")
    assert metadata._git(module) is None
    git("add", ".")
    git("commit", "-q", "-m", "x")
    clean = metadata._git(module)
    assert clean is not None
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    module.write_text("2")
    assert metadata._git(module) == {"commit": clean["commit"], "dirty": True}


def test_write_json(tmp_path):
    metadata.write_json(tmp_path / "m.json", {"a": math.nan, "b": [1, "ü"]})
    assert json.loads((tmp_path / "m.json").read_text()) == {"a": None, "b": [1, "ü"]}
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]


TRICKY = {
    "name": "smax_3m",
    "texts": [
        "no",
        "1e-5",
        "-1E+5",
        "1.5e3",
        "12e03",
        "0x1f",
        "1:30",
        "2020-01-01",
        "null",
        "~",
        "=",
        "<<",
        "a: b # c",
        'quote " and \\',
        "líne\nbreak",
        "tab\t",
        "",
        "- x",
        "*a",
        "&b",
        "!c",
        "%",
        "@d",
    ],
    "numbers": {"rate": 1e-5, "huge": 1e22, "negative": -2.5e-7, "integral": 3.0, "count": 10**12},
    "flags": [True, False, None],
    "nested": {"deep": {"er": {"empty": {}, "none": [], "rows": [[1, 2.5e-9], [{"k": 1e-9}]]}}},
    "on": 1,
    "a.b=c": 2,
}


def test_yaml_and_omegaconf_read_equal_configurations(tmp_path):
    path = tmp_path / "config.yaml"
    metadata.write_config(path, TRICKY)
    for read in (
        metadata.read_config(path),
        omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.load(path)),
    ):
        assert read == TRICKY
        assert list(read) == list(TRICKY)
        assert type(read["numbers"]["rate"]) is type(read["numbers"]["integral"]) is float


def test_config_is_readable(tmp_path):
    path = tmp_path / "config.yaml"
    metadata.write_config(path, {"a": {"b_c": 1e-5, "d": (1, 2)}, "e": "x"})
    assert path.read_text() == "a:\n  b_c: 1.0e-05\n  d:\n  - 1\n  - 2\ne: x\n"
    metadata.write_config(path, {})
    assert metadata.read_config(path) == {}


def test_a_validated_configuration_round_trips(tmp_path):
    class Options(config.Model):
        id: str = ""
        scenario: str = ""

    class Component:
        Config = Options

    loaded = config.load({}, find=lambda kind, name: Component)
    metadata.write_config(tmp_path / "config.yaml", config.dump(loaded))
    again = metadata.read_config(tmp_path / "config.yaml")
    assert config.load(again, find=lambda kind, name: Component) == loaded


@pytest.mark.parametrize("text", ["a: [1,", "- 1\n- 2\n", None])
def test_errors_of_config_files_are_reported_in_one_line(tmp_path, text):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(config.ConfigError, match=r"config\.yaml") as caught:
        metadata.read_config(path)
    assert "\n" not in str(caught.value)
