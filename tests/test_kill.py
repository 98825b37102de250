"""Killed without warning at random moments, a run still comes to the numbers it would have had."""

import csv
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from qmix_jax.runs import checkpoint

KILLS = int(os.environ.get("QMIX_JAX_KILLS", "1"))
MACHINE = ("time_s", "perf/env_steps_per_s")
RUN = (
    "experiment=two_step",
    "seeds=3",
    "trainer.env_steps=6_000",
    "trainer.log_every=200",
    "eval.every=500",
    "checkpoint.every_s=0.1",
    "resume=auto",
)


def rows(directory):
    """The metrics as text, without what depends on the machine."""
    with (directory / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in MACHINE} for row in csv.DictReader(file)]


def start(folder, environment):
    command = [sys.executable, "-m", "qmix_jax", "train", *RUN, f"hydra.run.dir={folder}"]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(folder, environment):
    process = start(folder, environment)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def size(folder):
    file = folder / "metrics.csv"
    return file.stat().st_size if file.exists() else 0


def kill_at_random(folder, environment, seconds):
    """Kills a process that goes on, so long after it began to write; True if it was training."""
    process = start(folder, environment)
    before = size(folder)
    while size(folder) == before and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.timeout(300 + 90 * KILLS)
def test_killed_at_random_moments_it_comes_to_the_same_numbers(tmp_path, environment):
    finish(tmp_path / "whole", environment)
    random_moments = random.Random(KILLS)
    kills = rounds = 0
    while kills < KILLS:
        folder = tmp_path / f"run-{rounds}"
        for _ in range(5):
            if kills < KILLS and kill_at_random(folder, environment, random_moments.random()):
                kills += 1
                found = checkpoint.newest(folder / checkpoint.FOLDER)
                assert found is None or found.load()  # damaged ones raise
        finish(folder, environment)
        rounds += 1
        assert rows(folder) == rows(tmp_path / "whole")
        for name in ("parameters_final.npz", "parameters_best.npz"):
            with np.load(folder / name) as one, np.load(tmp_path / "whole" / name) as other:
                assert one.files == other.files
                for key in one.files:
                    np.testing.assert_array_equal(one[key], other[key])
    print(f"{kills} kills in {rounds} run(s), all went on to the same numbers")
