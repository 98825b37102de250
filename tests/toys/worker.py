"""Run as a program: one process of several that train together, as `test_processes.py` asks."""

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
"""Two jobs of one group, and one of its own with fewer members than processes."""
ONE_DEVICE: dict[str, Any] = {"devices": 1}
"""All programs are then the same, and only the first is compiled."""


RESUMING: dict[str, Any] = {"resume": "auto", "checkpoint": {"every_s": 0.0}}


def one(folder: pathlib.Path, population: Mapping[str, Any]) -> list[api.Result]:
    """Three seeds."""
    return [api.train(members.small(seeds=3, population=population), folder / "one")]


def many(
    folder: pathlib.Path,
    population: Mapping[str, Any],
    programs: api.Programs | None = None,
    chosen: int = len(SETTINGS),
    **more: Any,
) -> list[api.Result]:
    """The first so many of `SETTINGS`."""
    jobs = [
        api.Job(
            members.small(**settings, population=population, **more),
            folder / str(i),
            label=f"job {i}",
        )
        for i, settings in enumerate(SETTINGS[:chosen])
    ]
    done = api.train_many(jobs, folder, programs=programs)
    return [result for result in done if result is not None]


def save_often(folder: pathlib.Path) -> list[str]:
    """Saves checkpoints in step with the other process; returns the messages."""
    notes: list[str] = []
    folder.mkdir()
    with checkpoint.CheckpointStore(
        folder, config.CheckpointConfig(every_s=0.0, keep=1), notes.append
    ) as store:
        for step in range(40):
            store.save(step, {"step": step}, {"step": np.array(step)})
    return notes


def break_down(how: str) -> None:
    """Makes this process fail when it is about to train."""

    def fail(*_: Any) -> None:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError("the disk is full")

    session.Session.__init__ = fail


def signal_after(calls: int, number: signal.Signals) -> None:
    """This process gets a signal during the compiled call that comes after so many; calls are
    short.
    """
    proper, left = loop._wait, iter(range(calls))

    def wait(tree: Any) -> None:
        proper(tree)
        if next(left, None) is None:
            loop._wait = proper
            os.kill(os.getpid(), number)
            time.sleep(0.2)  # the listener hears it

    loop._CALL_SECONDS, loop._wait = 0.0, wait


def go_on(folder: pathlib.Path, population: Mapping[str, Any], ill: bool) -> None:
    """At the first start the process that is `ill` gets a signal, and then is killed; at the next
    one all come to the end.
    """
    programs = api.Programs()
    if not (folder / "0").exists():
        if ill:
            signal_after(12, signal.SIGTERM)
        first = many(folder, population, programs, 2, **RESUMING)
        assert any(result.interrupted for result in first)
        if ill:
            signal_after(3, signal.SIGKILL)
    last = many(folder, population, programs, 2, **RESUMING)
    assert not any(result.interrupted for result in last)


def main(task: str, failing: str) -> int:
    """Does `task`: `train`, `go on`, or breaks process `failing` down as `fails` or `killed`."""
    population = {**ONE_DEVICE, "distributed": True}
    folder, index = pathlib.Path.cwd(), os.environ["JAX_PROCESS_ID"]
    if task == "train":
        process_group.join([members.small(population=population)]).gather("begins", None)
        notes = save_often(folder / f"alone-{index}")
        (folder / f"notes-{index}.json").write_text(json.dumps(notes))
        results = one(folder, population) + many(folder, population)
        objectives = [result.objective for result in results]
        (folder / f"objectives-{index}.json").write_text(json.dumps(objectives))
        return 0
    # What trains meanwhile may be late with its signs of life.
    process_group.LOST_S, process_group.BEAT_S = 10.0 if task == "go on" else 3.0, 0.2
    if index == failing and task != "go on":
        break_down(task)
    try:
        if task == "go on":
            go_on(folder, population, ill=index == failing)
        else:
            one(folder, population)
    except process_group.ProcessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    from qmix_jax import population

    # With little effort, as by the tests that results are compared with.
    faulthandler.dump_traceback_later(150, exit=True)  # says where it hangs, if it does
    population.compiler_options = lambda platform: {"xla_backend_optimization_level": 0}
    sys.exit(main(*sys.argv[1:]))
