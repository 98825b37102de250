"""A run of seconds on a game whose best return is known, made twice."""

import contextlib
import io
import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from qmix_jax import api, config
from qmix_jax.console import progress
from qmix_jax.doctor import compare
from qmix_jax.doctor.checks import FAIL, OK, WARN, Diagnostic

_SECTION = "Self-test"
_BEST = 8.0
_GAME: dict[str, Any] = {
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
"""Two agents, one step; only together do they reach the better corner."""
_REPORT = "report it, with what `qmix-jax doctor --json` prints"


def check() -> Iterator[Diagnostic]:
    """Trains, twice, in a folder that goes again; whatever goes wrong is one failed check."""
    with tempfile.TemporaryDirectory(prefix="qmix_jax-doctor-") as folder:
        try:
            yield from _run(pathlib.Path(folder))
        except Exception as error:  # a diagnosis names what is broken, whatever it is
            reason = (str(error).splitlines() or [""])[0]
            yield Diagnostic(_SECTION, "run", FAIL, f"{type(error).__name__}: {reason}", _REPORT)


def _run(folder: pathlib.Path) -> Iterator[Diagnostic]:
    cfg, programs = config.load(_GAME), api.Programs()
    first = _train(cfg, folder / "first", programs)
    again = _train(cfg, folder / "again", programs)
    manifest = json.loads((first.directory / "manifest.json").read_text(encoding="utf-8"))
    speed = np.nanmedian(again.metrics["perf/env_steps_per_s"])
    yield Diagnostic(
        _SECTION, "run", OK,
        f"compiled in {manifest['compile_s']['total']:.1f} s, then {progress.human(speed)} env "
        f"steps/s (QMIX on a matrix game, {cfg.seeds} seeds)",
    )  # fmt: skip
    losses = first.metrics["train/loss"][first.metrics["kind"] == "train"]
    finite = not first.failures and bool(np.isfinite(losses).all())
    yield Diagnostic(
        _SECTION, "finite", OK if finite else FAIL,
        f"{len(losses)} losses" if finite else f"losses: {losses}", "" if finite else _REPORT,
    )  # fmt: skip
    returns = _last_returns(first)
    learnt = bool((returns == _BEST).all())
    text = ", ".join(f"{value:g}" for value in returns)
    yield Diagnostic(
        _SECTION, "learns", OK if learnt else FAIL,
        f"greedy return {text} of at most {_BEST:g}", "" if learnt else _REPORT,
    )  # fmt: skip
    yield _repeats(first, again)
    read = api.load_run(first.directory)
    same = all(np.array_equal(read.metrics[n], first.metrics[n], n != "kind") for n in read.metrics)
    yield Diagnostic(
        _SECTION, "files", OK if same else FAIL,
        "written and read back", "" if same else _REPORT,
    )  # fmt: skip


def _train(
    cfg: config.ExperimentConfig, directory: pathlib.Path, programs: api.Programs
) -> api.Result:
    """Trains in silence."""
    with contextlib.redirect_stdout(io.StringIO()):
        (result,) = api.train_many([api.Job(cfg, directory)], programs=programs)
    if result is None or result.interrupted:
        raise KeyboardInterrupt
    return result


def _last_returns(result: api.Result) -> np.ndarray:
    """Of each seed, at its last evaluation."""
    metrics = result.metrics
    last = (metrics["kind"] == "eval") & (metrics["env_steps"] == metrics["env_steps"].max())
    return metrics["eval/return"][last]


def _repeats(first: api.Result, again: api.Result) -> Diagnostic:
    found = compare.metrics(first.metrics, again.metrics, tolerance=1e-4)
    if found.verdict == compare.EXACT:
        return Diagnostic(_SECTION, "repeats itself", OK, "a second run is the same, bit for bit")
    text = f"a second run differs: {found.first or 'in the last digits'}"
    fix = "set XLA_FLAGS=--xla_gpu_deterministic_ops=true on a GPU, if runs must repeat exactly"
    return Diagnostic(_SECTION, "repeats itself", WARN, text, fix)
