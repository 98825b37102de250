"""A manifest says what ran and nothing about who ran it; configurations survive their file."""

import datetime
import json
import math
import platform
import socket
import subprocess
import types

import pytest

from qmix_jax import config
from qmix_jax.runs import metadata

DEVICE = types.SimpleNamespace(platform="cpu", device_kind="cpu")


def test_manifest(monkeypatch):
    monkeypatch.setattr(metadata, "_git", lambda _: None)
    made = metadata.manifest(
        {"seeds": 2}, ["qmix-jax", "train"], (DEVICE, DEVICE), {"compile_s": 1.5}
    )
    assert made["device"] == {"platform": "cpu", "kind": "cpu", "count": 2}
    assert made["versions"]["python"] == platform.python_version()
    assert made["versions"]["jax"].count(".") >= 2
    assert made["command"] == ["qmix-jax", "train"]
    assert made["config"] == {"seeds": 2}
    assert made["compile_s"] == 1.5
    assert made["git"] is None
    assert datetime.datetime.fromisoformat(made["started"]).tzinfo is not None
    assert socket.gethostname() not in json.dumps(made)


def test_the_config_hash_depends_on_values_not_on_order():
    def hashed(mapping):
        return metadata.manifest(mapping, "", (DEVICE,), {})["config_hash"]

    assert hashed({"a": 1, "b": 2}) == hashed({"b": 2, "a": 1})
    assert hashed({"a": 1}) != hashed({"a": 2})


def test_a_package_that_is_not_installed_has_no_version():
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
    "texts": ["no", "1e-5", "null", "a: b # c", 'quote " and \\', "líne\nbreak", "", "- x"],
    "numbers": {"rate": 1e-5, "huge": 1e22, "negative": -2.5e-7, "whole": 3.0, "count": 10**12},
    "flags": [True, False, None],
    "nested": {"deep": {"er": {"empty": {}, "none": [], "rows": [[1, 2.5e-9], [{"k": 1e-9}]]}}},
    "on": 1,
    "a.b=c": 2,
}


def test_config_round_trip(tmp_path):
    path = tmp_path / "config.yaml"
    metadata.write_config(path, TRICKY)
    read = metadata.read_config(path)
    assert read == TRICKY
    assert list(read) == list(TRICKY)
    assert type(read["numbers"]["rate"]) is type(read["numbers"]["whole"]) is float


def test_config_is_readable(tmp_path):
    path = tmp_path / "config.yaml"
    metadata.write_config(path, {"a": {"b_c": 1e-5, "d": (1, 2)}, "e": "x"})
    assert path.read_text() == 'a:\n  b_c: 1.0e-05\n  d: [1, 2]\ne: "x"\n'
    metadata.write_config(path, {})
    assert metadata.read_config(path) == {}


def test_a_real_configuration_loads_again_from_its_file(tmp_path):
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
def test_bad_config_files_are_one_line(tmp_path, text):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(config.ConfigError, match=r"config\.yaml") as caught:
        metadata.read_config(path)
    assert "\n" not in str(caught.value)
