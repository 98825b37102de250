"""Run directories without training, written as `qmix-jax train` writes them."""

import copy
import math
import pathlib

import pytest

from qmix_jax.runs import metadata, storage

CONFIG = {
    "name": "toy",
    "seed": 0,
    "seeds": 2,
    "env": {"name": "toy", "options": {"kwargs": {}}},
    "agent": {"name": "gru", "options": {"hidden": 8}},
    "algo": {
        "name": "qmix",
        "algorithm": "td",
        "options": {},
        "mixer": {"name": "qmix", "options": {"embed_dim": 8}},
    },
    "hparams": {"learning_rate": {"start": 1e-3, "end": 1e-3, "steps": 1.0}, "gamma": 0.99},
    "trainer": {"env_steps": 300},
}


def write(path, values, changes=None, **details):
    """Writes a run directory.

    Args:
      path: the directory.
      values: seed -> score at each evaluation (every 100 env steps).
      changes: dotted key -> value, for keys that differ from `CONFIG`.
      details: `env`, `metric`, `started`, `finished`, `failure`, `members`, `commit`.
    """
    path = pathlib.Path(path)
    path.mkdir(parents=True)
    mapping = copy.deepcopy(CONFIG) | {"seed": min(values), "seeds": len(values)}
    for key, value in (changes or {}).items():
        *parents, leaf = key.split(".")
        node = mapping
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    metadata.write_config(path / "config.yaml", mapping)
    metadata.write_json(path / "manifest.json", manifest(len(values), details))
    metric = details.get("metric", "eval/win_rate")
    with storage.MetricsFiles(path, (metric, "perf/env_steps_per_s", "time_s")) as files:
        for k in range(max(map(len, values.values()))):
            place = {"env_steps": 100 * k, "update": k, "gradient_step": k, "time_s": 1.0 * k}
            for seed, row in values.items():
                train = {"kind": "train", "seed": seed, "perf/env_steps_per_s": 50.0 + k}
                score = row[k] if k < len(row) else math.nan
                files.write([place | train, place | {"kind": "eval", "seed": seed, metric: score}])
    return path


def manifest(n_seeds, details):
    reached = {
        "updates": 3,
        "train_s": 20.0,
        "eval_s": 4.0,
        "interrupted": False,
        "failures": {"0": details["failure"]} if "failure" in details else {},
    }
    return {
        "layout": metadata.LAYOUT,
        "started": details.get("started", "2025-01-01T00:00:00+00:00"),
        "command": "qmix_jax.train",
        "versions": {"jax": "0.10.2", "qmix_jax": "0.1.0"},
        "git": {"commit": details.get("commit", "abc"), "dirty": False},
        "device": {"platform": "cpu", "kind": "cpu", "count": 2},
        "cpu_count": 2,
        "plan": {"env": details.get("env", "toy/a")},
        "compile_s": {"total": 6.0},
        "population": {"members": details.get("members", n_seeds)},
        **({"reached": reached} if details.get("finished", True) else {}),
    }


@pytest.fixture
def make_run(tmp_path):
    """`make_run("sweep/0", {seed: scores}, {"hparams.gamma": 0.9})` below `tmp_path / "runs"`."""

    def make(name, values, changes=None, **details):
        return write(tmp_path / "runs" / name, values, changes, **details)

    return make
