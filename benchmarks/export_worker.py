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


def main(name: str, path: str, seen: str, out: str) -> None:
    """Plays everything twice, once with each batch size."""
    with np.load(seen) as archive:
        obs, avail, reset = (archive[key] for key in ("obs", "avail_actions", "reset"))
    start, act = {"native": native, "numpy": numpy, "stablehlo": stablehlo}[name](path)
    steps, n_envs = reset.shape
    results = {}
    for n in (n_envs, 1):
        actions = np.zeros(avail.shape[:3], np.int32)
        seconds = []
        for first in range(0, n_envs, n):
            rows, state = slice(first, first + n), start(n)
            for t in range(steps):
                began = time.perf_counter()
                actions[t, rows], state = act(obs[t, rows], avail[t, rows], reset[t, rows], state)
                seconds.append(time.perf_counter() - began)
        results |= {f"actions_{n}": actions, f"seconds_{n}": np.array(seconds[1:])}
    packages = {module.split(".")[0] for module in sys.modules}
    results["foreign"] = np.array(sorted(packages & {"qmix_jax", "flax", "jax", "jaxmarl"}))
    np.savez(out, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
