"""Public records print in a few lines and as a table in notebooks."""

import pathlib

import numpy as np
import pytest
from toys import members

import qmix_jax
from qmix_jax import reprs
from qmix_jax.conformance import base as conformance
from qmix_jax.doctor import checks, compare
from qmix_jax.lab import measure
from qmix_jax.reports import statistics, summary

RUN = pathlib.Path("runs", "tiny")
LONG_CONFIG = qmix_jax.compose_config("experiment=overcooked", "algo=qplex", "trainer=pymarl")
CELL = measure.GameResult("matrix", "vdn", 8, {8.0: 5, 0.0: 3}, ())
POINT = members.program.build(members.load(env={"name": "matrix"})).env.game.decision_points[0]
ROW = summary.RankingRow(
    "algo=vdn", (np.zeros(8),), statistics.Estimate(*np.float64([1, 0, 2])), 100, None
)
RECORDS = [
    LONG_CONFIG,
    qmix_jax.Job(LONG_CONFIG, RUN, label="algo=qplex"),
    qmix_jax.Evaluation("runs/x", "3m", "best", (0, 1), (0,), 8, {"return": np.ones((2, 1))}),
    qmix_jax.Baseline("3m", "random", 128, {"return": np.arange(512.0)}),
    qmix_jax.Conformance(
        "mine", tuple(conformance.CheckResult(f"check {i}", "passed") for i in range(90))
    ),
    qmix_jax.Diagnosis(tuple(checks.Diagnostic("s", f"n{i}", "warn", "x" * 99) for i in range(60))),
    qmix_jax.Rerun(
        RUN,
        pathlib.Path("runs", "tiny.rerun-0"),
        compare.Comparison((), 40, 0, 0, (), None),
        1e-4,
        {"versions.jax": ("0.10.2", "0.11.0")},
        (),
    ),
    qmix_jax.Lab((CELL,) * 30, RUN / "lab.md"),
    qmix_jax.GameTables([POINT], [np.ones((32, 2, 3))], [np.ones((32, 3, 3))], None),
    qmix_jax.Report(
        RUN,
        (RUN / "report.html",),
        {"3m": (ROW,) * 40},
        ("unfinished",),
    ),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_prints_in_a_few_lines(record):
    assert repr(record).startswith(f"{type(record).__name__}(")
    assert len(repr(record)) < 1_000 and "\n" not in repr(record)
    assert str(record) == repr(record)
    assert record._repr_html_().count("<tr>") == len(record.summary())


def test_a_configuration_prints_what_differs_from_the_defaults():
    cfg = members.small(seeds=3, hparams={"gamma": 0.5})
    text = repr(cfg)
    for field in ("name=tiny", "algo=vdn", "seeds=3", "hparams.gamma=0.5", "replay.capacity=12"):
        assert field in text
    assert "optimiser" not in text, "defaults are left out"
    assert "hparams.epsilon.start" not in text and "hparams.epsilon.end=0.1" in text


class _Record:
    def __init__(self, **fields):
        self._fields = fields

    def summary(self):
        return self._fields


def test_fields_that_do_not_fit_are_counted():
    text = reprs.text(_Record(**{f"field_{i}": "x" * 100 for i in range(20)}))
    assert text.endswith(", ... and 13 more)")


def test_html_is_escaped():
    html = reprs.html(_Record(**{"<b>": "<script>alert(1)</script>"}))
    assert "<script>" not in html and "&lt;script&gt;" in html and "&lt;b&gt;" in html
