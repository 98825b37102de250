"""Trains twice, for seconds, on a game whose best return is known."""

import contextlib
import importlib
import io
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from qmix_jax import api, config
from qmix_jax.console import progress
from qmix_jax.doctor import compare
from qmix_jax.doctor.checks import FAIL, OK, WARN, Diagnostic, verdict
from qmix_jax.runs import metadata

_SECTION = "Self-test"
_BEST = 8.0
_CONFIG: dict[str, Any] = {
    "name": "doctor",
    "seeds": 2,
    "compile_cache": False,
    "checkpoint": {"enabled": False},
    "env": {"name": "matrix", "options": {"game": None, "payoff": [[_BEST, 0.0], [0.0, 4.0]]}},
    "agent": {"name": "mlp", "options": {"hidden": 16, "layers": 1}},
    "hparams": {"learning_rate": 5e-3, "epsilon": 1.0, "td_lambda": 0.0, "reward_scale": 1.0},
    "replay": {"batch_size": 32, "capacity": 512},
    "trainer": {
        "env_steps": 4_000,
        "warm_up": 32,
        "collector": "episode",
        "window": None,
        "n_envs": 8,
        "gradient_steps": 1,
        "log_every": 1_000,
    },
    "eval": {"every": 1_000, "episodes": 1},
}
"""Two agents, one step; the best return needs both agents' cooperation."""
_REPORT = "report it, with the output of `qmix-jax doctor --json`"


def check() -> Iterator[Diagnostic]:
    """Trains twice in a temporary folder; any error is one failed check."""
    with tempfile.TemporaryDirectory(prefix="qmix_jax-doctor-") as folder:
        try:
            yield from _run(pathlib.Path(folder))
        except Exception as error:  # a diagnosis reports every kind of error
            reason = (str(error).splitlines() or [""])[0]
            yield Diagnostic(_SECTION, "run", FAIL, f"{type(error).__name__}: {reason}", _REPORT)


def _run(folder: pathlib.Path) -> Iterator[Diagnostic]:
    cfg, programs = config.load(_CONFIG), api.Programs()
    first = _train(cfg, folder / "first", programs)
    second = _train(cfg, folder / "second", programs)
    metrics = first.metrics
    compile_s = metadata.read_manifest(first.directory)["compile_s"]["total"]
    speed = progress.human(np.nanmedian(second.metrics["perf/env_steps_per_s"]))
    yield Diagnostic(
        _SECTION, "run", OK,
        f"compiled in {compile_s:.1f} s, then {speed} env steps/s (QMIX on a matrix game, "
        f"{cfg.seeds} seeds)",
    )  # fmt: skip
    losses = metrics["train/loss"][metrics["kind"] == "train"]
    finite = not first.failures and bool(np.isfinite(losses).all())
    message = f"all {len(losses)} losses" if finite else f"losses: {losses}"
    yield verdict(_SECTION, "finite", finite, message, _REPORT)
    last = (metrics["kind"] == "eval") & (metrics["env_steps"] == metrics["env_steps"].max())
    returns = metrics["eval/return"][last]
    message = f"greedy returns {', '.join(f'{x:g}' for x in returns)}; the best is {_BEST:g}"
    yield verdict(_SECTION, "learns", bool((returns == _BEST).all()), message, _REPORT)
    yield _repeats(first, second)
    loaded = api.load_run(first.directory).metrics
    same = all(np.array_equal(loaded[name], metrics[name], name != "kind") for name in loaded)
    yield verdict(_SECTION, "files", same, "metrics on disk equal those in memory", _REPORT)


def _train(
    cfg: config.ExperimentConfig, directory: pathlib.Path, programs: api.Programs
) -> api.Result:
    """Trains without output, also in a notebook."""
    ipython = "IPython" in sys.modules and importlib.import_module("IPython.utils.capture")
    quiet = ipython.capture_output(stderr=False) if ipython else None
    with quiet or contextlib.redirect_stdout(io.StringIO()):
        (result,) = api.train_many([api.Job(cfg, directory)], programs=programs)
    if result is None or result.interrupted:
        raise KeyboardInterrupt
    return result


def _repeats(first: api.Result, second: api.Result) -> Diagnostic:
    comparison = compare.metrics(first.metrics, second.metrics, tolerance=1e-4)
    exact = comparison.verdict == compare.EXACT
    message = f"a second run differs: {comparison.first or 'in the last digits'}"
    if exact:
        message = "a second run is identical, bit for bit"
    fix = "set XLA_FLAGS=--xla_gpu_deterministic_ops=true on a GPU, if runs must repeat exactly"
    return verdict(_SECTION, "deterministic", exact, message, fix, WARN)
