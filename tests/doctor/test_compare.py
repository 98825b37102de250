"""Comparison of two tables of metrics, and of two manifests."""

import numpy as np
import pytest

from qmix_jax.doctor import compare


def table(**changes):
    columns = {
        "kind": np.array(["eval", "train", "train", "eval"]),
        "env_steps": np.array([0.0, 50.0, 50.0, 50.0]),
        "seed": np.array([3.0, 3.0, 4.0, 3.0]),
        "eval/return": np.array([1.0, np.nan, np.nan, 2.0]),
        "train/loss": np.array([np.nan, 0.5, 0.25, np.nan]),
        "time_s": np.array([1.0, 2.0, 2.0, 3.0]),
    }
    return {**columns, **{name: np.array(values) for name, values in changes.items()}}


def test_wall_clock_columns_are_not_compared():
    comparison = compare.metrics(table(), table(time_s=[9.0, 9.0, 9.0, 9.0]), 0.0)
    assert comparison.verdict == "exact" and comparison.first is None and comparison.n_rows == 4
    assert comparison.columns[-1][:2] == ("time_s", "not compared")


def test_small_differences_are_within_tolerance_and_measured():
    comparison = compare.metrics(
        table(), table(**{"eval/return": [1.0, np.nan, np.nan, 2.0001]}), 1e-3
    )
    assert comparison.verdict == "within tolerance" and comparison.first is None
    (column,) = [column for column in comparison.columns if column.name == "eval/return"]
    assert column.n_different == 1
    assert column.largest == pytest.approx(0.0001 / 2.0001)


def test_the_first_value_that_differs_is_reported():
    new = table(
        **{"train/loss": [np.nan, 0.5, 0.75, np.nan], "eval/return": [1.0, np.nan, np.nan, 9.0]}
    )
    comparison = compare.metrics(table(), new, 1e-3)
    assert comparison.verdict == "different"
    assert comparison.first == compare.Difference(4, "train", 50, 4, "train/loss", 0.25, 0.75)
    assert "line 4 (train row of seed 4 at 50 env steps), column train/loss: 0.25 became 0.75" in (
        str(comparison.first)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_longer_finite_differs(value):
    new = table(**{"eval/return": [value, np.nan, np.nan, 2.0]})
    comparison = compare.metrics(table(), new, 0.5)
    assert comparison.first is not None and comparison.first.line == 2
    equal = table(**{"eval/return": [value, np.nan, np.nan, 2.0]})
    assert compare.metrics(equal, new, 0.0).verdict == "exact"


def test_rows_and_columns_of_only_one_run_are_differences():
    short = {name: values[:3] for name, values in table().items()}
    for old, new, counts in ((table(), short, (1, 0)), (short, table(), (0, 1))):
        comparison = compare.metrics(old, new, 0.0)
        assert (
            comparison.only_old,
            comparison.only_new,
        ) == counts and comparison.verdict == "different"
    fewer = {name: values for name, values in table().items() if name != "train/loss"}
    assert compare.metrics(fewer, table(), 0.0).missing == ("train/loss",)
    assert compare.metrics(short, compare.shared_rows(table(), short), 0.0).verdict == "exact"


def test_the_order_of_rows_does_not_matter():
    reversed_rows = {name: values[::-1] for name, values in table().items()}
    assert compare.metrics(table(), reversed_rows, 0.0).verdict == "exact"


def test_differences_of_manifests_are_those_that_may_change_metrics():
    old = {
        "git": {"commit": "a", "dirty": False},
        "versions": {"jax": "1", "numpy": "2"},
        "population": {"batching": "map", "members": 8},
        "started": "then",
    }
    new = {**old, "versions": {"jax": "2", "numpy": "2"}, "git": None, "started": "now"}
    new["population"] = {"batching": "map", "members": 2}
    assert compare.manifests(old, new) == {
        "git.commit": ("a", None),
        "git.dirty": (False, None),
        "versions.jax": ("1", "2"),
    }
    batched = {**old, "population": {"batching": "vmap", "members": 8}}
    assert "population.members" in compare.manifests(batched, new)
