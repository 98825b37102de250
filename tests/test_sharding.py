"""Members split over eight devices: no device talks to another, and every member is bit for bit
what it is on one device.
"""

import json
import pathlib

import pytest

TESTS = pathlib.Path(__file__).resolve().parent
PROGRAMS = {"init", "train", "evaluate"}


@pytest.mark.slow
def test_eight_devices_train_without_warnings(run_python, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    done = run_python("-m", "toys.eight_devices")
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert answers["control"] == ["all-reduce"], "the search finds communication where there is"
    for batching, lanes in (("map", 1), ("vmap", 2)):
        found = answers[batching]
        assert (found["devices"], found["lanes"]) == (8, lanes)
        assert found["partitions"] == {name: ["8"] for name in PROGRAMS}
        assert found["communication"] == {name: [] for name in PROGRAMS}
    for name, leaves in answers["equal"].items():
        assert leaves and all(leaves), name
