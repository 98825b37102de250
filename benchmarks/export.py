"""A trained policy in each format it can be used in: are its actions the trainer's, how large is
it, how long does a step take?"""

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
"""Format -> what a fresh environment gets; the native one is this environment."""
_FILES = {"stablehlo": ("policy.stablehlo",), "numpy": ("weights.npz", "runner.py")}
_SMOKE = {"steps": 64, "n_envs": 4}
_ALLOWED = ("run", "steps", "n_envs", "member", "parameters")


def run(options: measure.Options) -> None:
    """Prints differing actions, kilobytes and microseconds per step; it takes `run=DIR` and, if
    you like, `steps=10000 n_envs=64 member=best parameters=best`.

    Raises: ConfigError for a setting that is not known, or without a run.
    """
    chosen = _chosen(options)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        directory = chosen.get("run") or (_train(root) if options.smoke else None)
        if directory is None:
            raise config.ConfigError("export: which run? give run=DIR")
        done = trained.read(directory, chosen.get("parameters", "best"))
        member = done.member(_number(chosen.get("member", "best")))
        seen = _record(done, member, int(chosen["steps"]), int(chosen["n_envs"]))
        np.savez(root / "seen.npz", **seen)
        exported = qmix_jax.export_run(directory, root / "export", member=member,
                                       parameters=done.kind)  # fmt: skip
        written = [name for name, files in _FILES.items() if (exported / files[0]).exists()]
        tests = [
            _Test(name, directory if name == "native" else exported, root, not options.smoke)
            for name in ("native", *written)
        ]
        rows = [_row(test, done.config.name, seen) for test in tests]
        notes = [*_NOTES]
        if "numpy" in written and policy.acting(done).head == "argmax":
            notes.append(_margin(done, member, exported, seen))
    measure.report("export", rows, options, notes)


_NOTES = (
    "differ: actions unlike the trainer's, of all decisions, with all environments in one call and "
    "with one at a time; each format carries its own memory of the episode",
    "stablehlo and numpy run in fresh virtual environments that hold nothing else (--smoke: in "
    "this one); numpy on one thread",
    "us: median wall time of a call, arrays of NumPy in and out",
)


class _Test(NamedTuple):
    name: str
    path: str | pathlib.Path
    root: pathlib.Path
    fresh: bool


def _chosen(options: measure.Options) -> dict[str, Any]:
    values = dict(override.partition("=")[::2] for override in options.overrides)
    for name in values:
        if name not in _ALLOWED:
            raise config.ConfigError(f"export: {name}: {config.suggest(name, _ALLOWED)}")
    return {"steps": 10_000, "n_envs": 64, **(_SMOKE if options.smoke else {}), **values}


def _number(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _train(root: pathlib.Path) -> pathlib.Path:
    return qmix_jax.train(cases.load(cases.SMOKE), root / "run").directory


def _record(
    done: trained.TrainedRun, member: int, steps: int, n_envs: int
) -> dict[str, np.ndarray]:
    """At least so many env steps of the trainer's own greedy acting: what was seen and done."""
    cfg = config.load(config.dump(done.config))
    env = program.environment(cfg)
    algorithm = program.make_algorithm(cfg, env.spec)
    window = max(-(-steps // n_envs), env.spec.max_steps)
    collector = collectors.make_segment(program.collector_setup(algorithm, env, n_envs), window)
    greedy = train_step.greedy_policy(algorithm, done.own(member))
    options = population.compiler_options(jax.default_backend())
    with policy.precision(done.config):
        collect = jax.jit(lambda key: collector.collect(key, (), greedy)[1],
                          compiler_options=options)  # fmt: skip
        trajectory = collect(jax.random.key(0))
    return {
        "obs": np.asarray(trajectory.obs[:-1]),
        "avail_actions": np.asarray(trajectory.avail_actions[:-1]),
        "reset": np.asarray(trajectory.reset[:-1]),
        "actions": np.asarray(trajectory.actions),
    }


def _row(test: _Test, case: str, seen: dict[str, np.ndarray]) -> measure.Row:
    out = test.root / f"{test.name}.npz"
    worker = pathlib.Path(__file__).with_name("export_worker.py")
    # Isolated: the checkout that this runs in must not be found.
    isolated = [] if test.name == "native" else ["-I"]
    command = [_interpreter(test), *isolated, str(worker), test.name, str(test.path)]
    threads = {"OPENBLAS_NUM_THREADS": "1"} if test.name == "numpy" else {}
    _call([*command, str(test.root / "seen.npz"), str(out)], threads)
    with np.load(out) as archive:
        results = dict(archive)
    steps, n_envs, n_agents = seen["actions"].shape
    if test.name != "native" and {"qmix_jax", "flax"} & set(results["foreign"]):
        raise ValueError(f"export: {test.name} needed {', '.join(results['foreign'])}")
    size = sum((pathlib.Path(test.path) / name).stat().st_size
               for name in _FILES.get(test.name, ()))  # fmt: skip
    return {
        "case": f"{case}, {test.name}",
        "env steps": steps * n_envs,
        "decisions": steps * n_envs * n_agents,
        **{
            f"differ, B={label}": int(np.sum(results[f"actions_{n}"] != seen["actions"]))
            for label, n in (("all", n_envs), ("1", 1))
        },
        "B": n_envs,
        "kB": size / 1e3 if size else None,
        "us, B=all": 1e6 * float(np.median(results[f"seconds_{n_envs}"])),
        "us, B=1": 1e6 * float(np.median(results["seconds_1"])),
    }


def _interpreter(test: _Test) -> str:
    """Of a fresh environment with what the format needs and nothing else."""
    if not test.fresh or test.name == "native":
        return sys.executable
    folder = test.root / f"venv-{test.name}"
    _call([sys.executable, "-m", "venv", str(folder)], {})
    python = str(folder / "bin" / "python")
    _call([python, "-m", "pip", "install", "--quiet", *_NEEDS[test.name]], {})
    return python


def _call(command: Sequence[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise config.ConfigError(f"export: {' '.join(command[:4])}: {done.stderr.strip()[-300:]}")


def _margin(
    done: trained.TrainedRun, member: int, exported: pathlib.Path, seen: dict[str, np.ndarray]
) -> str:
    """How near rounding comes to changing an action, from the utilities of JAX and of NumPy.

    A choice flips where the lead of the best action over the second is less than the error of
    their difference: with a density f of small leads and an error e, f * mean(|e|) / 2 of them.
    """
    step, own = jax.jit(policy.make_step(done)), done.own(member)
    state = policy.of_run(done, member).initial_state(seen["reset"].shape[1]).arrays
    sides = [
        _utilities(lambda *seen: step(own, *seen), state, seen),
        _utilities(runner.read(exported)[1], state, seen),
    ]
    choices = seen["avail_actions"].sum(axis=-1) > 1
    jax_q, numpy_q = (np.where(seen["avail_actions"], q, -np.inf)[choices] for q in sides)
    rows, best = np.arange(len(jax_q)), np.argsort(jax_q, axis=-1)
    leads = [q[rows, best[:, -1]] - q[rows, best[:, -2]] for q in (jax_q, numpy_q)]
    small = np.quantile(leads[0], 0.02)
    rate = 0.02 / max(small, 1e-30) * np.mean(np.abs(leads[0] - leads[1])) / 2
    return (
        f"{len(jax_q):,} of the decisions have a choice; the smallest lead of the best action "
        f"is {leads[0].min():.2g}, the largest error of a lead in NumPy {_largest(leads):.2g}: "
        f"at this density of leads rounding would flip one choice in {1 / max(rate, 1e-30):.1g}"
    )


def _largest(leads: Sequence[np.ndarray]) -> float:
    return float(np.max(np.abs(leads[0] - leads[1])))


def _utilities(step: runner.Step, state: runner.Arrays, seen: dict[str, np.ndarray]) -> np.ndarray:
    """f32[T, B, N, A]."""
    found = []
    for obs, avail, reset in zip(
        *(seen[n] for n in ("obs", "avail_actions", "reset")), strict=True
    ):
        _, q, state = step(obs, avail, {**state, "reset": reset})
        found.append(np.asarray(q))
    return np.stack(found)
