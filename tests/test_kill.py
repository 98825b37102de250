"""A run killed at random moments resumes to the results of an uninterrupted run."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from toys.comparison import rows

from qmix_jax.runs import checkpoint

KILLS = int(os.environ.get("QMIX_JAX_KILLS", "1"))
RUN = (
    "experiment=two_step",
    "seeds=3",
    "trainer.env_steps=6_000",
    "trainer.log_every=200",
    "eval.every=500",
    "checkpoint.every_s=0.1",
    "resume=auto",
)


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
    """Kills a resumed process `seconds` after its first write; returns whether it was training."""
    process = start(folder, environment)
    first_size = size(folder)
    while size(folder) == first_size and process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.timeout(300 + 90 * KILLS)
def test_a_run_killed_at_random_moments_resumes_to_equal_results(tmp_path, environment):
    finish(tmp_path / "uninterrupted", environment)
    random_moments = random.Random(KILLS)
    kills = rounds = 0
    while kills < KILLS:
        folder = tmp_path / f"run-{rounds}"
        for _ in range(5):
            if kills < KILLS and kill_at_random(folder, environment, random_moments.random()):
                kills += 1
                saved = checkpoint.newest(folder / checkpoint.FOLDER)
                assert saved is None or saved.load()  # raises if damaged
        finish(folder, environment)
        rounds += 1
        assert rows(folder) == rows(tmp_path / "uninterrupted")
        for name in ("parameters_final.npz", "parameters_best.npz"):
            with np.load(folder / name) as a, np.load(tmp_path / "uninterrupted" / name) as b:
                assert a.files == b.files
                for key in a.files:
                    np.testing.assert_array_equal(a[key], b[key])
    print(f"{kills} kills in {rounds} run(s), all resumed to equal results")
