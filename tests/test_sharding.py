"""Members on eight devices: devices do not communicate, and every member equals its run on one
device bit for bit.
"""

import json
import pathlib

import pytest

TESTS = pathlib.Path(__file__).resolve().parent
PROGRAMS = {"init", "train", "evaluate"}


@pytest.mark.slow
def test_eight_devices_train_without_warnings(run_python, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    process = run_python("-m", "toys.eight_devices")
    assert process.returncode == 0, process.stderr
    answers = json.loads(process.stdout.splitlines()[-1])
    assert answers["control"] == ["all-reduce"], "the search detects communication"
    for batching, lanes in (("map", 1), ("vmap", 2)):
        answer = answers[batching]
        assert (answer["devices"], answer["lanes"]) == (8, lanes)
        assert answer["partitions"] == {name: ["8"] for name in PROGRAMS}
        assert answer["communication"] == {name: [] for name in PROGRAMS}
    for name, leaves in answers["equal"].items():
        assert leaves and all(leaves), name
