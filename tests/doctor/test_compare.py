"""Two tables of metrics side by side: every verdict, and the right cell."""

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


def verdicts(found):
    return {column.name: column.verdict for column in found.columns}


def test_equal_to_the_last_bit_whatever_the_clock_says():
    found = compare.metrics(table(), table(time_s=[9.0, 9.0, 9.0, 9.0]), 0.0)
    assert found.verdict == "exact" and found.first is None and found.n_rows == 4
    assert verdicts(found)["time_s"] == "machine"


def test_small_differences_are_close_and_measured():
    found = compare.metrics(table(), table(**{"eval/return": [1.0, np.nan, np.nan, 2.0001]}), 1e-3)
    assert found.verdict == "within tolerance" and found.first is None
    (column,) = [column for column in found.columns if column.name == "eval/return"]
    assert column.n_different == 1
    assert column.largest == pytest.approx(0.0001 / 2.0001)


def test_the_first_cell_that_differs_is_named():
    new = table(
        **{"train/loss": [np.nan, 0.5, 0.75, np.nan], "eval/return": [1.0, np.nan, np.nan, 9.0]}
    )
    found = compare.metrics(table(), new, 1e-3)
    assert found.verdict == "different"
    assert found.first == compare.Difference(4, "train", 50, 4, "train/loss", 0.25, 0.75)
    assert "line 4 (train row of seed 4 at 50 env steps), column train/loss: 0.25 became 0.75" in (
        str(found.first)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_any_more_differs(value):
    new = table(**{"eval/return": [value, np.nan, np.nan, 2.0]})
    found = compare.metrics(table(), new, 0.5)
    assert found.first is not None and found.first.line == 2
    both = table(**{"eval/return": [value, np.nan, np.nan, 2.0]})
    assert compare.metrics(both, new, 0.0).verdict == "exact"


def test_rows_and_columns_of_one_run_only_are_differences():
    short = {name: values[:3] for name, values in table().items()}
    for old, new, counts in ((table(), short, (1, 0)), (short, table(), (0, 1))):
        found = compare.metrics(old, new, 0.0)
        assert (found.only_old, found.only_new) == counts and found.verdict == "different"
    less = {name: values for name, values in table().items() if name != "train/loss"}
    assert compare.metrics(less, table(), 0.0).missing == ("train/loss",)
    assert compare.metrics(short, compare.common(table(), short), 0.0).verdict == "exact"


def test_the_order_of_rows_does_not_matter():
    turned = {name: values[::-1] for name, values in table().items()}
    assert compare.metrics(table(), turned, 0.0).verdict == "exact"


def test_surroundings_name_what_may_change_numbers():
    old = {
        "git": {"commit": "a", "dirty": False},
        "versions": {"jax": "1", "numpy": "2"},
        "population": {"batching": "map", "members": 8},
        "started": "then",
    }
    new = {**old, "versions": {"jax": "2", "numpy": "2"}, "git": None, "started": "now"}
    new["population"] = {"batching": "map", "members": 2}
    assert compare.surroundings(old, new) == {
        "git.commit": ("a", None),
        "git.dirty": (False, None),
        "versions.jax": ("1", "2"),
    }
    batched = {**old, "population": {"batching": "vmap", "members": 8}}
    assert "population.members" in compare.surroundings(batched, new)
