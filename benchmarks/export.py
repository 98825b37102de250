"""Compares the formats of a trained policy: differing actions, size and latency."""

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import qmix_jax
from benchmarks import cases, measure
from qmix_jax import collectors, config, population, program, train_step
from qmix_jax.deploy import policy, runner, trained

_NEEDS = {
    "native": (),
    "stablehlo": (f"jax=={jax.__version__}", "flatbuffers"),
    "numpy": (f"numpy=={np.__version__}",),
}
"""Format -> packages of its virtual environment; `native` uses this environment."""
_FILES = {"stablehlo": ("policy.stablehlo",), "numpy": ("weights.npz", "runner.py")}
_SMOKE = {"steps": 64, "n_envs": 4}
_ALLOWED = ("run", "steps", "n_envs", "member", "parameters")


def run(options: measure.Options) -> None:
    """Prints differing actions, kilobytes and microseconds per step. Settings: `run=DIR` and
    optionally `steps=10000 n_envs=64 member=best parameters=best`.

    Raises: ConfigError for an unknown setting, or without a run.
    """
    settings = _settings(options)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        directory = settings.get("run") or (_train(root) if options.smoke else None)
        if directory is None:
            raise config.ConfigError("export: run=DIR is missing; set it")
        run = trained.read(directory, settings.get("parameters", "best"))
        member = settings.get("member", "best")
        member = run.member(int(member) if member.isdigit() else member)
        recorded = _record(run, member, int(settings["steps"]), int(settings["n_envs"]))
        np.savez(root / "recorded.npz", **recorded)
        exported = qmix_jax.export_run(directory, root / "export", member=member,
                                       parameters=run.kind)  # fmt: skip
        written = [name for name, files in _FILES.items() if (exported / files[0]).exists()]
        formats = [
            _Format(name, directory if name == "native" else exported, root, not options.smoke)
            for name in ("native", *written)
        ]
        rows = [_row(fmt, run.config.name, recorded) for fmt in formats]
        notes = [*_NOTES]
        if "numpy" in written and policy.make_algorithm(run).head == "argmax":
            notes.append(_margin(run, member, exported, recorded))
    measure.report("export", rows, options, notes)


_NOTES = (
    "differ: actions that differ from the trainer's, of all decisions, with all environments in "
    "one call and with one at a time; each format carries its own recurrent state",
    "stablehlo and numpy run in separate virtual environments without other packages (--smoke: in "
    "this one); numpy on one thread",
    "us: median wall time of a call, with NumPy inputs and outputs",
)


class _Format(NamedTuple):
    name: str
    path: str | pathlib.Path
    root: pathlib.Path
    fresh: bool


def _settings(options: measure.Options) -> dict[str, Any]:
    values = dict(override.partition("=")[::2] for override in options.overrides)
    for name in values:
        if name not in _ALLOWED:
            raise config.ConfigError(f"export: {name}: {config.suggest(name, _ALLOWED)}")
    return {"steps": 10_000, "n_envs": 64, **(_SMOKE if options.smoke else {}), **values}


def _train(root: pathlib.Path) -> pathlib.Path:
    return qmix_jax.train(cases.load(cases.SMOKE), root / "run").directory


def _record(run: trained.TrainedRun, member: int, steps: int, n_envs: int) -> dict[str, np.ndarray]:
    """Records inputs and actions of the trainer's greedy policy for at least `steps` env steps."""
    cfg = config.load(config.dump(run.config))
    env = program.environment(cfg)
    algorithm = program.make_algorithm(cfg, env.spec)
    window = max(-(-steps // n_envs), env.spec.max_steps)
    collector = collectors.make_segment(program.collector_setup(algorithm, env, n_envs), window)
    greedy = train_step.greedy_policy(algorithm, run.member_params(member))
    options = population.compiler_options(jax.default_backend())
    with policy.precision(run.config):
        collect = jax.jit(lambda key: collector.collect(key, (), greedy)[1],
                          compiler_options=options)  # fmt: skip
        trajectory = collect(jax.random.key(0))
    return {
        "obs": np.asarray(trajectory.obs[:-1]),
        "avail_actions": np.asarray(trajectory.avail_actions[:-1]),
        "reset": np.asarray(trajectory.reset[:-1]),
        "actions": np.asarray(trajectory.actions),
    }


def _row(fmt: _Format, case: str, recorded: dict[str, np.ndarray]) -> measure.Row:
    out = fmt.root / f"{fmt.name}.npz"
    worker = pathlib.Path(__file__).with_name("export_worker.py")
    # Isolated, so that this checkout cannot be imported.
    isolated = [] if fmt.name == "native" else ["-I"]
    command = [_interpreter(fmt), *isolated, str(worker), fmt.name, str(fmt.path)]
    threads = {"OPENBLAS_NUM_THREADS": "1"} if fmt.name == "numpy" else {}
    _call([*command, str(fmt.root / "recorded.npz"), str(out)], threads)
    with np.load(out) as archive:
        results = dict(archive)
    steps, n_envs, n_agents = recorded["actions"].shape
    if fmt.name != "native" and {"qmix_jax", "flax"} & set(results["foreign"]):
        raise ValueError(f"export: {fmt.name} needed {', '.join(results['foreign'])}")
    size = sum((pathlib.Path(fmt.path) / name).stat().st_size
               for name in _FILES.get(fmt.name, ()))  # fmt: skip
    return {
        "case": f"{case}, {fmt.name}",
        "env steps": steps * n_envs,
        "decisions": steps * n_envs * n_agents,
        **{
            f"differ, B={label}": int(np.sum(results[f"actions_{n}"] != recorded["actions"]))
            for label, n in (("all", n_envs), ("1", 1))
        },
        "B": n_envs,
        "kB": size / 1e3 if size else None,
        "us, B=all": 1e6 * float(np.median(results[f"seconds_{n_envs}"])),
        "us, B=1": 1e6 * float(np.median(results["seconds_1"])),
    }


def _interpreter(fmt: _Format) -> str:
    """Returns Python of a new virtual environment with only the packages of a format."""
    if not fmt.fresh or fmt.name == "native":
        return sys.executable
    folder = fmt.root / f"venv-{fmt.name}"
    _call([sys.executable, "-m", "venv", str(folder)], {})
    python = str(folder / "bin" / "python")
    _call([python, "-m", "pip", "install", "--quiet", *_NEEDS[fmt.name]], {})
    return python


def _call(command: Sequence[str], environment: dict[str, str]) -> None:
    process = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if process.returncode:
        error = process.stderr.strip()[-300:]
        raise config.ConfigError(f"export: {' '.join(command[:4])}: {error}")


def _margin(
    run: trained.TrainedRun, member: int, exported: pathlib.Path, recorded: dict[str, np.ndarray]
) -> str:
    """Estimates how often rounding changes an action, from the utilities of JAX and NumPy.

    A choice flips where the lead of the best action over the second is smaller than the error of
    their difference: with a density f of small leads and an error e, f * mean(|e|) / 2 of them.
    """
    step, params = jax.jit(policy.make_step(run)), run.member_params(member)
    state = policy.from_run(run, member).initial_state(recorded["reset"].shape[1]).arrays
    utilities = [
        _utilities(lambda *inputs: step(params, *inputs), state, recorded),
        _utilities(runner.read(exported)[1], state, recorded),
    ]
    avail = recorded["avail_actions"]
    choices = avail.sum(axis=-1) > 1
    jax_q, numpy_q = (np.where(avail, q, -np.inf)[choices] for q in utilities)
    rows, best = np.arange(len(jax_q)), np.argsort(jax_q, axis=-1)
    leads = [q[rows, best[:, -1]] - q[rows, best[:, -2]] for q in (jax_q, numpy_q)]
    errors = np.abs(leads[0] - leads[1])
    small = np.quantile(leads[0], 0.02)
    rate = 0.02 / max(small, 1e-30) * np.mean(errors) / 2
    return (
        f"{len(jax_q):,} of the decisions have a choice; the smallest lead of the best action "
        f"is {leads[0].min():.2g}, the largest error of a lead in NumPy {errors.max():.2g}: "
        f"at this density of leads rounding would flip one choice in {1 / max(rate, 1e-30):.1g}"
    )


def _utilities(
    step: runner.Step, state: runner.Arrays, recorded: dict[str, np.ndarray]
) -> np.ndarray:
    """Returns f32[T, B, N, A]."""
    utilities = []
    inputs = (recorded[name] for name in ("obs", "avail_actions", "reset"))
    for obs, avail, reset in zip(*inputs, strict=True):
        _, q, state = step(obs, avail, {**state, "reset": reset})
        utilities.append(np.asarray(q))
    return np.stack(utilities)
