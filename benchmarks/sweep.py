"""A multirun trained as populations (`hydra/launcher=fused`), compared with Hydra's basic launcher,
which trains the same jobs sequentially.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks import cases, measure
from qmix_jax import config

CASES = {
    "two_step, 4 rates x 2 discounts x 8 seeds": (
        "experiment=two_step", "hparams.learning_rate=1e-4,2e-4,5e-4,1e-3",
        "hparams.gamma=0.95,0.99", "seed=range(8)", "seeds=1",
    ),
    "smax_3m, 2 rates x 2 lambdas x 4 seeds": (
        "experiment=smax_3m", "hparams.learning_rate=1e-3,2e-3", "hparams.td_lambda=0,0.3",
        "seed=range(4)", "seeds=1", "trainer.env_steps=100_000",
    ),
}  # fmt: skip
"""Every job is one member."""

SMOKE = ("algo=vdn", "hparams.gamma=0.9")


def run(options: measure.Options) -> None:
    """Prints seconds, programs and the ratio; `experiment=... key=a,b` defines another sweep."""
    rows = [_row(case, overrides) for case, overrides in _cases(options.overrides, options.smoke)]
    notes = [
        "complete commands in sequence, start and compilation included",
        "each with its own compile cache, empty at first: Hydra's launcher compiles once and loads "
        "the program for every later job",
    ]
    measure.report("sweep", rows, options, notes)


def _cases(overrides: Sequence[str], smoke: bool) -> list[tuple[str, tuple[str, ...]]]:
    if smoke:
        return [("smoke", (*cases.SMOKE, *SMOKE, *overrides))]
    if any(override.startswith("experiment=") for override in overrides):
        return [("custom", tuple(overrides))]
    return [(name, (*base, *overrides)) for name, base in CASES.items()]


def _row(case: str, overrides: Sequence[str]) -> measure.Row:
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        fused_s = _seconds(root / "fused", "fused", overrides)
        index = json.loads((root / "fused" / "sweep" / "index.json").read_text())
        basic_s = _seconds(root / "basic", "basic", overrides)
    return {
        "case": case,
        "jobs": len(index["jobs"]),
        "programs": len(index["groups"]),
        "fused s": fused_s,
        "one by one s": basic_s,
        "ratio": basic_s / fused_s,
    }


def _seconds(root: pathlib.Path, launcher: str, overrides: Sequence[str]) -> float:
    """Runs the command; returns wall seconds. Raises: ConfigError with its output if it fails."""
    command = [sys.executable, "-m", "qmix_jax", "train", "-m", f"hydra/launcher={launcher}"]
    command += [f"hydra.sweep.dir={root / 'sweep'}", *overrides]
    environment = {**os.environ, "XDG_CACHE_HOME": str(root / "cache")}
    started = time.perf_counter()
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise config.ConfigError(f"sweep: {(process.stderr or process.stdout).strip()[-300:]}")
    return seconds
