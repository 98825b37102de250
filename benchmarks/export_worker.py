"""Plays recorded observations with one format of a policy, in an interpreter without this package:
`python export_worker.py FORMAT PATH RECORDED.npz OUT.npz`.

Writes actions and seconds per call, for all environments at a time and for one at a time.
"""

import sys
import time
from typing import Any

import numpy as np


def native(path: str) -> Any:
    """Loads a run directory with `qmix_jax.load_policy`."""
    import qmix_jax

    return _with_policy(qmix_jax.load_policy(path))


def numpy(path: str) -> Any:
    """Loads the exported `runner.py`, which needs NumPy only."""
    sys.path.insert(0, path)
    import runner

    return _with_policy(runner.load(path))


def stablehlo(path: str) -> Any:
    """Loads the exported program, which needs JAX only."""
    import json

    import jax
    from jax import export

    with open(f"{path}/policy.stablehlo", "rb") as file:
        call = jax.jit(export.deserialize(bytearray(file.read())).call)
    with open(f"{path}/metadata.json", encoding="utf-8") as file:
        arrays = json.load(file)["interface"]["state"]

    def start(n: int) -> Any:
        return {name: np.zeros((n, *shape), dtype) for name, (shape, dtype) in arrays.items()}

    def act(obs: np.ndarray, avail: np.ndarray, reset: np.ndarray, state: Any) -> Any:
        actions, _, state = call(obs, avail, {**state, "reset": state["reset"] | reset})
        return np.asarray(actions), state

    return start, act


def _with_policy(policy: Any) -> Any:
    def act(obs: np.ndarray, avail: np.ndarray, reset: np.ndarray, state: Any) -> Any:
        return policy.act(obs, avail, policy.restart(state, reset) if reset.any() else state)

    return policy.initial_state, act


def play(start: Any, act: Any, recorded: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Plays n environments at a time; returns (actions i32[T, B, N], seconds per call)."""
    reset = recorded["reset"]
    actions, seconds = np.zeros(recorded["avail_actions"].shape[:3], np.int32), []
    for first in range(0, reset.shape[1], n):
        rows, state = slice(first, first + n), start(n)
        for t in range(len(reset)):
            inputs = [recorded[name][t, rows] for name in ("obs", "avail_actions", "reset")]
            started = time.perf_counter()
            actions[t, rows], state = act(*inputs, state)
            seconds.append(time.perf_counter() - started)
    return actions, np.array(seconds[1:])


def main(name: str, path: str, recorded_path: str, out: str) -> None:
    """Plays all recorded steps with each batch size."""
    with np.load(recorded_path) as archive:
        recorded = dict(archive)
    start, act = {"native": native, "numpy": numpy, "stablehlo": stablehlo}[name](path)
    results = {}
    for n in (recorded["reset"].shape[1], 1):
        results[f"actions_{n}"], results[f"seconds_{n}"] = play(start, act, recorded, n)
    packages = {module.split(".")[0] for module in sys.modules}
    results["foreign"] = np.array(sorted(packages & {"qmix_jax", "flax", "jax", "jaxmarl"}))
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
