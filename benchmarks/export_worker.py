"""Plays recorded observations with one format of a policy, in an interpreter that need not have
this package: `python export_worker.py FORMAT PATH SEEN.npz OUT.npz`.

Writes the actions, and seconds per call, of all environments at a time and of one at a time.
"""

import sys
import time
from typing import Any

import numpy as np


def native(path: str) -> Any:
    """`qmix_jax.load_policy`, of a run directory."""
    import qmix_jax

    return _with_policy(qmix_jax.load_policy(path))


def numpy(path: str) -> Any:
    """The exported `runner.py`, with NumPy alone."""
    sys.path.insert(0, path)
    import runner

    return _with_policy(runner.load(path))


def stablehlo(path: str) -> Any:
    """The exported program, with JAX alone."""
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


def play(start: Any, act: Any, seen: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(actions i32[T, B, N], seconds per call), with n environments at a time."""
    reset = seen["reset"]
    actions, seconds = np.zeros(seen["avail_actions"].shape[:3], np.int32), []
    for first in range(0, reset.shape[1], n):
        rows, state = slice(first, first + n), start(n)
        for t in range(len(reset)):
            shown = [seen[name][t, rows] for name in ("obs", "avail_actions", "reset")]
            began = time.perf_counter()
            actions[t, rows], state = act(*shown, state)
            seconds.append(time.perf_counter() - began)
    return actions, np.array(seconds[1:])


def main(name: str, path: str, seen: str, out: str) -> None:
    """Plays everything twice, once with each batch size."""
    with np.load(seen) as archive:
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
