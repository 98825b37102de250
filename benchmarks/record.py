"""Records short runs, which `equality` compares bit for bit between two versions of the package.

Uses public names of `qmix_jax` only, so that this file can record different versions.
"""

import contextlib
import csv
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import qmix_jax
from benchmarks import measure

CONTEXT, RUN, METRICS = "record.json", "run.json", "metrics.csv"
PARAMETERS = ("parameters_final.npz", "parameters_best.npz")
WALL_CLOCK = ("time_s", "perf/")
"""Prefixes of the columns that are not recorded."""

_PACKAGES = ("jax", "jaxlib", "numpy", "flax", "optax", "jaxmarl", "pettingzoo")
_FLAGS = ("XLA_FLAGS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION", "OMP_NUM_THREADS")

Recipe = Callable[[pathlib.Path], Mapping[str, qmix_jax.Result]]
"""`(empty folder) -> (job name -> result)`; the name of a single job is empty."""

_COMMON = (
    "population.batching=map", "population.devices=1", "compile_cache=false",
    "checkpoint.enabled=false",
)  # fmt: skip
"""Members run sequentially on one device; every program is compiled from scratch."""

_TWO_STEP = (
    "experiment=two_step", "seeds=3", "trainer.env_steps=3_000", "trainer.log_every=20",
    "eval.every=100", "replay.capacity=200", "hparams.epsilon.end=0.1",
    "hparams.epsilon.steps=2_000.0", "hparams.learning_rate.end=1e-4",
    "hparams.learning_rate.steps=1_000.0", "hparams.td_lambda=0.3",
)  # fmt: skip
_TWO_STEP_PQN = (
    "experiment=two_step", "trainer=pqn", "seeds=3", "trainer.env_steps=6_400",
    "trainer.log_every=64", "eval.every=640", "hparams.epsilon.end=0.1",
    "hparams.epsilon.steps=4_000.0",
)  # fmt: skip
_SMAX = (
    "experiment=smax_3m", "seeds=2", "trainer.env_steps=6_000", "trainer.n_envs=8",
    "trainer.gradient_steps=4", "trainer.log_every=128", "eval.every=1_000", "eval.episodes=8",
    "agent.options.hidden=32", "hparams.epsilon.steps=4_000.0", "hparams.target_period=20",
)  # fmt: skip
_SMAX_REPLAY = (*_SMAX, "trainer.warm_up=512", "replay.batch_size=8", "replay.capacity=32")
_SMAX_PQN = (*_SMAX, "trainer=pqn", "trainer.window=16", "replay.batch_size=4")
_SPREAD = (
    "experiment=mpe_spread", "seeds=2", "trainer.env_steps=3_120", "trainer.n_envs=4",
    "trainer.warm_up=208", "trainer.log_every=104", "eval.every=520", "eval.episodes=4",
    "replay.batch_size=8", "replay.capacity=16", "agent.options.hidden=16",
    "hparams.epsilon.steps=2_000.0", "hparams.target_period=20",
)  # fmt: skip
_WINDOW = ("trainer.collector=window", "trainer.window=13", "trainer.burn_in=3")
_SMALL = (
    "seeds=1", "trainer.n_envs=4", "trainer.warm_up=0", "trainer.gradient_steps=2",
    "trainer.log_every=1", "eval.episodes=4", "replay.batch_size=4", "replay.capacity=16",
    "agent.options.hidden=16", "hparams.target_period=5",
)  # fmt: skip

_ALGORITHMS = (
    "cw_qmix", "iql", "ow_qmix", "qatten", "qmix", "qmix_lin", "qmix_ns", "qplex",
    "qplex_attention", "qtran_alt", "qtran_base", "vdn", "vdn_s",
)  # fmt: skip
_ON_POLICY = ("pqn_qmix", "pqn_vdn")
_OPTIONS = {
    "episode": (*_SPREAD, "trainer.collector=episode"),
    "segment": (*_SPREAD, "trainer.collector=segment"),
    "window": (*_SPREAD, *_WINDOW),
    "prioritised": (*_SPREAD, "replay.kind=prioritised"),
    "terminate": (*_SPREAD, "trainer.truncation=terminate"),
    "separate_lstm": (*_SPREAD, "agent=lstm", "agent.options.sharing=none"),
    "8_bit": (*_SMAX_REPLAY, "replay.obs_dtype=uint8", "replay.state_dtype=uint8"),
    "vmap": (*_TWO_STEP, "population.batching=vmap"),
}
_ENVIRONMENTS = {
    "coin_game": (2_000, 500), "hanabi": (2_000, 500), "jaxnav": (2_000, 1_000),
    "matrix": (400, 100), "mmdp": (1_000, 250), "mpe_speaker_listener": (2_000, 500),
    "overcooked": (4_000, 2_000), "overcooked_v2": (4_000, 2_000), "pettingzoo": (1_000, 500),
    "predator_prey": (2_000, 500), "smax_2s3z": (2_000, 1_000), "switch_riddle": (1_000, 250),
}  # fmt: skip
"""Experiment -> env steps, and env steps between evaluations."""

_SMOKE = (
    "experiment=two_step", "seeds=2", "trainer.env_steps=200", "trainer.log_every=20",
    "eval.every=50", "replay.capacity=50",
)  # fmt: skip


def run(options: measure.Options) -> None:
    """Records all runs, or those of `only=NAME,...`, in `out=DIR`; prints one row per job. The name
    of a folder, such as `two_step`, selects all its runs.

    Raises: ConfigError for an unknown setting or name, or if `out` already has such a run.
    """
    values = settings(options.overrides, ("out", "only"))
    if options.smoke:
        with tempfile.TemporaryDirectory() as folder:
            smoke(pathlib.Path(values.get("out", folder)))
            rows = [_row(pathlib.Path(values.get("out", folder)), "smoke")]
        measure.report("record", rows, options)
        return
    if "out" not in values:
        raise qmix_jax.ConfigError("record: out=DIR is missing; set it")
    out = pathlib.Path(values["out"])
    all_recipes = recipes()
    names = select(tuple(all_recipes), values.get("only"))
    existing = [name for name in names if (out / name).exists()]
    if existing:
        raise qmix_jax.ConfigError(
            f"record: {str(out)!r} already has {', '.join(existing)}; choose another out=DIR"
        )
    jobs = [job for name in names for job in record(out, name, all_recipes[name])]
    measure.report("record", [_row(out, job) for job in jobs], options)


def smoke(out: pathlib.Path) -> None:
    """Records one tiny run."""
    record(out, "smoke", functools.partial(_train, _SMOKE))


def settings(overrides: Sequence[str], allowed: Sequence[str]) -> dict[str, str]:
    """Parses `["out=DIR"]` as `{"out": "DIR"}`. Raises: ConfigError for a key not in `allowed`."""
    values = dict(override.partition("=")[::2] for override in overrides)
    for name in values:
        if name not in allowed:
            raise qmix_jax.ConfigError(f"unknown key {name!r}; allowed: {', '.join(allowed)}")
    return values


def select(names: Sequence[str], only: str | None) -> list[str]:
    """Returns the `names` that `only` lists, by name or by folder; all of them for None.

    Raises: ConfigError for an entry that selects nothing.
    """
    selected: set[str] = set()
    for entry in only.split(",") if only else names:
        matches = {name for name in names if name == entry or name.startswith(f"{entry}/")}
        if not matches:
            raise qmix_jax.ConfigError(f"only={entry}: no such run; allowed: {', '.join(names)}")
        selected |= matches
    return [name for name in names if name in selected]


def recipes() -> dict[str, Recipe]:
    """Returns all runs by name."""
    single = {
        **{f"two_step/{name}": (*_TWO_STEP, f"algo={name}") for name in _ALGORITHMS},
        **{f"two_step/{name}": (*_TWO_STEP_PQN, f"algo={name}") for name in _ON_POLICY},
        **{
            f"smax_3m/{name}": (*_SMAX_REPLAY, f"algo={name}")
            for name in ("qmix", "qplex", "cw_qmix", "iql")
        },
        "smax_3m/pqn_qmix": (*_SMAX_PQN, "algo=pqn_qmix"),
        **{f"options/{name}": overrides for name, overrides in _OPTIONS.items()},
        **{
            f"environments/{name}": (
                f"experiment={name}", *_SMALL, f"trainer.env_steps={steps}", f"eval.every={every}"
            )
            for name, (steps, every) in _ENVIRONMENTS.items()
        },
    }  # fmt: skip
    rates = {f"rate_{rate}": ("seeds=1", f"hparams.learning_rate={rate}")
             for rate in ("1e-4", "5e-4", "2e-3", "8e-3")}  # fmt: skip
    sweep = {f"{algo}_{rate}": (f"algo={algo}", f"hparams.learning_rate={rate}")
             for algo in ("qmix", "vdn") for rate in ("5e-4", "2e-3")}  # fmt: skip
    halving = qmix_jax.Halving(rungs=(0.25, 0.5), keep=0.5)
    return {
        **{name: functools.partial(_train, overrides) for name, overrides in single.items()},
        "sweep": functools.partial(_train_many, sweep, None),
        "halving": functools.partial(_train_many, rates, halving),
        "resumed/two_step": functools.partial(_train_and_resume, _TWO_STEP, 1_500),
        "resumed/window": functools.partial(_train_and_resume, (*_SPREAD, *_WINDOW), 1_560),
    }


def record(out: pathlib.Path, name: str, recipe: Recipe) -> list[str]:
    """Runs a recipe and stores the results in `out/name`; returns the names of the jobs.

    Raises: KeyboardInterrupt if a signal ended training; nothing is stored then.
    """
    context = _context()
    path = out / CONTEXT
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != context:
        raise qmix_jax.ConfigError(
            f"record: {str(out)!r} was recorded on another machine or with other versions; choose "
            "another out=DIR"
        )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(context, indent=2) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        results = recipe(pathlib.Path(folder))
        seconds = time.perf_counter() - started
        for job, result in results.items():
            _store(result, out / name / job, seconds / len(results))
    return [f"{name}/{job}" if job else name for job in results]


def digest(path: pathlib.Path) -> str:
    """Returns the SHA-256 of the arrays of a `.npz` file: names, types, shapes and bytes."""
    hashed = hashlib.sha256()
    with np.load(path, allow_pickle=False) as archive:
        for name in sorted(archive.files):
            values = np.ascontiguousarray(archive[name])
            hashed.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
            hashed.update(values.tobytes())
    return hashed.hexdigest()


def _config(
    overrides: Sequence[str], values: Mapping[str, Any] | None = None
) -> qmix_jax.ExperimentConfig:
    """Returns the configuration of overrides (the last one of a key wins) and dotted keys."""
    merged = dict(override.partition("=")[::2] for override in (*_COMMON, *overrides))
    composed = qmix_jax.compose_config(*(f"{key}={value}" for key, value in merged.items()))
    return qmix_jax.with_values(composed, values or {})


def _train(overrides: Sequence[str], folder: pathlib.Path) -> dict[str, qmix_jax.Result]:
    return {"": _completed(qmix_jax.train(_config(overrides), folder / "run"))}


def _train_many(
    overrides: Mapping[str, Sequence[str]], halving: qmix_jax.Halving | None, folder: pathlib.Path
) -> dict[str, qmix_jax.Result]:
    """Trains jobs in one call of `train_many`; job name -> result."""
    jobs = [
        qmix_jax.Job(_config((*_TWO_STEP, *extra)), folder / name)
        for name, extra in overrides.items()
    ]
    results = qmix_jax.train_many(jobs, folder / "sweep", halving=halving)
    return {name: _completed(result) for name, result in zip(overrides, results, strict=True)}


def _train_and_resume(
    overrides: Sequence[str], cut: int, folder: pathlib.Path
) -> dict[str, qmix_jax.Result]:
    """Trains for `cut` env steps, then resumes to the end."""
    full = _config(overrides, {"checkpoint.enabled": True, "checkpoint.replay": "always"})
    short = qmix_jax.with_values(full, {"trainer.env_steps": cut})
    _completed(qmix_jax.train(short, folder / "run"))
    changes = {"trainer.env_steps": full.trainer.env_steps}
    return {"": _completed(qmix_jax.resume(folder / "run", changes))}


def _completed(result: qmix_jax.Result | None) -> qmix_jax.Result:
    """Returns the result. Raises: KeyboardInterrupt if a signal ended training early."""
    if result is None or result.interrupted:
        raise KeyboardInterrupt
    return result


def _store(result: qmix_jax.Result, folder: pathlib.Path, seconds: float) -> None:
    folder.mkdir(parents=True)
    for name in PARAMETERS:
        shutil.copyfile(result.directory / name, folder / name)
    with (result.directory / METRICS).open(newline="", encoding="utf-8") as source:
        header, *rows = csv.reader(source)
    columns = [i for i, name in enumerate(header) if not name.startswith(WALL_CLOCK)]
    with (folder / METRICS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([row[i] for i in columns] for row in (header, *rows))
    summary = {
        "seconds": round(seconds, 1),
        "rows": len(rows),
        "updates": max(int(row[header.index("update")]) for row in rows),
        "sha256": {name: digest(folder / name) for name in PARAMETERS},
        "config": qmix_jax.dump_config(result.config),
    }
    (folder / RUN).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _row(out: pathlib.Path, job: str) -> measure.Row:
    summary = json.loads((out / job / RUN).read_text(encoding="utf-8"))
    final = summary["sha256"][PARAMETERS[0]]
    row = {name: summary[name] for name in ("rows", "updates", "seconds")}
    return {"case": job, **row, "final parameters": final[:12]}


def _context() -> dict[str, Any]:
    """Returns the versions, flags, devices and processor that results depend on."""
    devices = jax.local_devices()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        **{name: os.environ.get(name) for name in _FLAGS},
        "device": devices[0].device_kind,
        "devices": len(devices),
        "machine": platform.machine(),
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
    }


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None
