"""Program of one process of a process group, for `test_processes.py`."""

import faulthandler
import json
import os
import pathlib
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from qmix_jax import api, config
from qmix_jax.machine import process_group
from qmix_jax.runs import checkpoint
from qmix_jax.training import loop, session
from toys import members

SETTINGS: tuple[dict[str, Any], ...] = (
    {"hparams": {"gamma": 0.9}},
    {"seeds": 2, "seed": 3, "hparams": {"td_lambda": 0.7}},
    {"trainer": {"log_every": 300}},
)
"""Two jobs that share a program, and another one with fewer members than processes."""
ONE_DEVICE: dict[str, Any] = {"devices": 1}
"""All processes then compile equal programs, and only the first one compiles."""
RESUMING: dict[str, Any] = {"resume": "auto", "checkpoint": {"every_s": 0.0}}


def train_one(folder: pathlib.Path, population: Mapping[str, Any]) -> list[api.Result]:
    """Trains a run of three seeds."""
    return [api.train(members.small(seeds=3, population=population), folder / "one")]


def train_many(
    folder: pathlib.Path,
    population: Mapping[str, Any],
    programs: api.Programs | None = None,
    n_jobs: int = len(SETTINGS),
    **more: Any,
) -> list[api.Result]:
    """Trains the first `n_jobs` of `SETTINGS`."""
    jobs = [
        api.Job(
            members.small(**settings, population=population, **more),
            folder / str(i),
            label=f"job {i}",
        )
        for i, settings in enumerate(SETTINGS[:n_jobs])
    ]
    results = api.train_many(jobs, folder, programs=programs)
    return [result for result in results if result is not None]


def save_often(folder: pathlib.Path) -> list[str]:
    """Saves checkpoints at the same time as the other process; returns the messages."""
    notes: list[str] = []
    folder.mkdir()
    with checkpoint.CheckpointStore(
        folder, config.CheckpointConfig(every_s=0.0, keep=1), notes.append
    ) as store:
        for step in range(40):
            store.save(step, {"step": step}, {"step": np.array(step)})
    return notes


def fail_at_start(task: str) -> None:
    """Makes this process `fail` or be `kill`ed when a session starts."""

    def fail(*_: Any) -> None:
        if task == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError("the disk is full")

    session.Session.__init__ = fail


def signal_after(calls: int, number: signal.Signals) -> None:
    """Signals this process in the compiled call after `calls`, which are made short."""
    original, remaining = loop._wait, iter(range(calls))

    def wait(tree: Any) -> None:
        original(tree)
        if next(remaining, None) is None:
            loop._wait = original
            os.kill(os.getpid(), number)
            time.sleep(0.2)  # for the listener

    loop._CHUNK_SECONDS, loop._wait = 0.0, wait


def resume(folder: pathlib.Path, population: Mapping[str, Any], failing: bool) -> None:
    """Trains at the first start until a signal, resumes until the `failing` process is killed, and
    at the next start resumes to the end.
    """
    programs = api.Programs()
    if not (folder / "0").exists():
        if failing:
            signal_after(12, signal.SIGTERM)
        first = train_many(folder, population, programs, 2, **RESUMING)
        assert any(result.interrupted for result in first)
        if failing:
            signal_after(3, signal.SIGKILL)
    last = train_many(folder, population, programs, 2, **RESUMING)
    assert not any(result.interrupted for result in last)


def main(task: str, failing: str) -> int:
    """Does `task`: `train`, `resume`, or lets process `failing` `fail` or be `kill`ed."""
    population = {**ONE_DEVICE, "distributed": True}
    folder, index = pathlib.Path.cwd(), os.environ["JAX_PROCESS_ID"]
    if task == "train":
        process_group.join([members.small(population=population)]).gather("start", None)
        notes = save_often(folder / f"alone-{index}")
        (folder / f"notes-{index}.json").write_text(json.dumps(notes))
        results = train_one(folder, population) + train_many(folder, population)
        objectives = [result.objective for result in results]
        (folder / f"objectives-{index}.json").write_text(json.dumps(objectives))
        return 0
    # The heartbeat of a process that trains may be late.
    process_group.LOST_S, process_group.BEAT_S = 10.0 if task == "resume" else 3.0, 0.2
    if index == failing and task != "resume":
        fail_at_start(task)
    try:
        if task == "resume":
            resume(folder, population, failing=index == failing)
        else:
            train_one(folder, population)
    except process_group.ProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    from qmix_jax import population

    faulthandler.dump_traceback_later(150, exit=True)  # shows where it hangs
    # As in the tests, whose results these are compared with.
    population.compiler_options = lambda platform: {"xla_backend_optimization_level": 0}
    sys.exit(main(*sys.argv[1:]))
