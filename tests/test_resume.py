"""A run that is cut anywhere goes on to the same numbers as one that never was."""

import csv
import json
import os
import random
import shutil

import numpy as np
import pytest
from toys import members

import qmix_jax
from qmix_jax import api, config
from qmix_jax.runtime import checkpoint, loop

CUTS = int(os.environ.get("QMIX_JAX_CUTS", "1"))
"""Random cut points of each case."""

VDN = {"name": "vdn", "factorisation": {"name": "td"}, "mixer": {"name": "vdn"}}
IQL = {"name": "iql", "factorisation": {"name": "iql"}, "mixer": None}
TWO_STEP = {
    "name": "two_step",
    "env": {"name": "two_step"},
    "agent": {"name": "mlp", "options": {"hidden": 8}},
    "trainer": {"collector": "episode", "env_steps": 400, "log_every": 90},
    "eval": {"every": 150},
}
WINDOW = {"trainer": {"collector": "window", "window": 4}, "replay": {"capacity": 30}}
CASES = {
    "qmix on counting, windows": WINDOW,
    "qmix on two_step, prioritised": {**TWO_STEP, "replay": {"kind": "prioritised"}},
    "vdn on counting, segments": {"algo": VDN},
    "iql on two_step": {**TWO_STEP, "algo": IQL},
}
MACHINE = ("time_s", "perf/env_steps_per_s")


class Cut(BaseException):
    """Stands for the end of a process: nothing but `finally` runs after it."""


def load(case, **more):
    fixed = {"seeds": 3, "seed": 4, "resume": "auto", "checkpoint": {"every_s": 0.0}}
    both = {**CASES[case], **fixed}
    return members.load(**{**both, **more})


def rows(directory):
    """The metrics as text, without what depends on the machine."""
    with (directory / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in MACHINE} for row in csv.DictReader(file)]


def same(a, b):
    for x, y in zip(members.leaves(a), members.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def state(directory):
    """All arrays of the newest checkpoint."""
    return checkpoint.newest(directory / checkpoint.FOLDER).arrays


def train(cfg, directory, programs):
    (result,) = api.train_many([api.Job(cfg, directory)], programs=programs)
    return result


@pytest.fixture(autouse=True)
def _short_calls(monkeypatch):
    """A call is one update, so that a cut can come after any."""
    monkeypatch.setattr(loop, "_CALL_SECONDS", 0.0)


@pytest.fixture
def cut(monkeypatch):
    """`cut(n)`: the n-th compiled call from now on ends the process."""

    proper = loop._wait

    def after(calls):
        left = iter(range(calls))

        def wait(tree):
            proper(tree)
            if next(left, None) is None:
                raise Cut

        monkeypatch.setattr(loop, "_wait", wait)

    return after


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Case -> (its run without a cut, the compiled programs, with the replay at the end)."""
    made = {}

    def get(case):
        if case not in made:
            programs = api.Programs()
            cfg = load(case, checkpoint={"replay": "always", "every_s": 1e6})
            folder = tmp_path_factory.mktemp("reference") / "run"
            made[case] = (train(cfg, folder, programs), programs)
        return made[case]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("number", range(CUTS))
@pytest.mark.parametrize("case", CASES)
def test_cut_anywhere_it_goes_on_to_the_same_numbers(case, number, reference, cut, tmp_path):
    whole, programs = reference(case)
    cfg = load(case, checkpoint={"replay": "always", "every_s": 0.0})
    n_calls = whole.plan.n_updates + whole.plan.warm_up_collects
    cut(random.Random(f"{case} {number}").randrange(1, n_calls))
    with pytest.raises(Cut):
        train(cfg, tmp_path / "run", programs)
    cut(10**9)
    again = train(cfg, tmp_path / "run", programs)
    same(again.parameters, whole.parameters)
    same(again.best_parameters, whole.best_parameters)
    assert rows(again.directory) == rows(whole.directory)
    before, after = state(whole.directory), state(again.directory)
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)
