"""`equality` finds every difference between recorded runs; `structure` measures a checkout."""

import csv
import dataclasses
import json
import pathlib

import numpy as np
import pytest

import qmix_jax
from benchmarks import __main__ as command
from benchmarks import equality, record, structure
from qmix_jax.cli import composition

ROWS = [
    {"kind": "train", "env_steps": 20 * n, "update": 10 * n, "gradient_step": 10 * n, "seed": seed,
     "train/loss": 0.5 / n + seed, "rollout/return": float("nan") if n == 1 else 7.0}
    for n in (1, 2, 3)
    for seed in (4, 5)
]  # fmt: skip
PARAMETERS = {
    "agent/kernel": np.linspace(-2.0, 2.0, 12, dtype=np.float32).reshape(2, 6),
    "mixer/": np.zeros(0, np.float32),
}


@pytest.fixture
def records(tmp_path):
    """`make(name, rows, parameters, jaxlib)` writes a folder with one recorded run, `a/b`."""

    def make(name, rows=ROWS, parameters=PARAMETERS, jaxlib="0.10.2"):
        folder = tmp_path / name / "a" / "b"
        folder.mkdir(parents=True)
        with (folder / record.METRICS).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        for file in record.PARAMETERS:
            np.savez(folder / file, **parameters)
        (folder / record.RUN).write_text("{}")
        context = {"jaxlib": jaxlib, "processor": "one", "devices": 1}
        (tmp_path / name / record.CONTEXT).write_text(json.dumps(context))
        return tmp_path / name

    return make


def changed(row, name, factor):
    """`ROWS` with one value multiplied, and all later rows of that seed doubled."""
    rows = [dict(values) for values in ROWS]
    rows[row][name] *= factor
    for later in rows[row + 2 :: 2]:
        later["train/loss"] *= 2
    return rows


def verdict(before, after):
    return equality.compare(before / "a" / "b", after / "a" / "b")


def status(before, after, *more):
    out = before.parent / "lines.jsonl"
    return command.main(
        ["equality", f"before={before}", f"after={after}", *more, "--out", str(out)]
    )


def test_equal_records_are_equal_bit_for_bit(records, capsys):
    before, after = records("before"), records("after")
    result = verdict(before, after)
    assert result.firsts == () and result.n_rows == 6 and result.n_parameters == 24
    assert result.metrics == result.parameters == 0.0
    assert status(before, after) == 0 and "equal bit for bit" in capsys.readouterr().out


def test_rounding_in_the_first_differing_row_passes_regardless_of_later_rows(records):
    result = verdict(records("before"), records("after", changed(1, "train/loss", 1 + 1e-6)))
    (first,) = result.firsts
    assert (first.update, first.name) == (10, "train/loss")
    assert first.size == pytest.approx(1e-6, rel=1e-3)
    assert result.metrics == 0.5 and result.passed


@pytest.mark.parametrize("size", [1e-4, -2.0])
def test_more_than_rounding_names_update_and_metric(records, size, capsys):
    before, after = records("before"), records("after", changed(3, "train/loss", 1 + size))
    assert not verdict(before, after).passed
    assert status(before, after) == 1
    printed = capsys.readouterr().out
    assert "DIFFERS" in printed and "train/loss" in printed and "20" in printed


def test_each_member_is_judged_by_its_first_differing_row(records):
    rows = changed(0, "train/loss", 1 + 1e-7)
    rows[5]["train/loss"] *= 1.01  # the other member, later
    sizes = sorted(
        first.size for first in verdict(records("before"), records("after", rows)).firsts
    )
    assert sizes[0] < 1e-6 and sizes[1] == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("value", [float("nan"), ""])
def test_a_missing_value_differs(records, value):
    rows = [dict(values) for values in ROWS]
    rows[2]["rollout/return"] = value
    result = verdict(records("before"), records("after", rows))
    assert result.firsts[0][:2] == (20, "rollout/return") and not result.passed


def test_a_missing_row_or_run_differs(records, tmp_path):
    before = records("before")
    assert not verdict(before, records("shorter", ROWS[:-1])).passed
    assert not verdict(before, records("other", [*ROWS[1:], ROWS[0]])).passed
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / record.CONTEXT).write_bytes((before / record.CONTEXT).read_bytes())
    assert status(before, empty) == 1


def test_parameter_differences_are_relative_to_the_largest_entry(records):
    kernel = PARAMETERS["agent/kernel"].copy()
    kernel[1, 2] += 2e-3  # the second member's; its largest entry is 2
    after = records("after", parameters={**PARAMETERS, "agent/kernel": kernel})
    result = verdict(records("before"), after)
    (first,) = result.firsts
    assert first.update == 30 and first.name == "parameters_final.npz: agent/kernel"
    assert first.size == pytest.approx(1e-3, rel=1e-2) and not result.passed


def test_renamed_arrays_and_new_columns_are_noted(records):
    before = records("before")
    renamed = {"network/kernel": PARAMETERS["agent/kernel"], "mixer/": PARAMETERS["mixer/"]}
    rows = [{**row, "eval/return/agent_0": 1.0} for row in ROWS]
    result = verdict(before, records("after", rows, renamed))
    assert result.passed and not result.firsts
    assert "new columns: eval/return/agent_0" in result.notes
    assert "parameters_final.npz: agent/kernel is now network/kernel" in result.notes
    missing = {"mixer/": PARAMETERS["mixer/"]}
    assert not verdict(before, records("missing", parameters=missing)).passed


def test_records_of_other_versions_are_refused(records, capsys):
    assert status(records("before"), records("after", jaxlib="0.11.0")) == 2
    assert "jaxlib 0.10.2 (now 0.11.0)" in capsys.readouterr().err


def test_every_algorithm_is_recorded_and_runs_are_selected_by_name_or_folder():
    names = tuple(record.recipes())
    algorithms = {name.partition("/")[2] for name in names if name.startswith("two_step/")}
    assert algorithms == {name for name in composition.choices()["algo"] if name != "custom"}
    assert record.select(names, "sweep,smax_3m") == [
        name for name in names if name == "sweep" or name.startswith("smax_3m/")
    ]
    with pytest.raises(qmix_jax.ConfigError, match="only=qmix"):
        record.select(names, "qmix")


@dataclasses.dataclass
class Result:
    """The part of `qmix_jax.Result` that recipes read."""

    directory: pathlib.Path
    interrupted: bool = False


@pytest.fixture
def recorded(monkeypatch):
    """Records the (directory, configuration) that recipes would train, without training."""
    recorded = []

    def append(directory, config, interrupted=False):
        recorded.append((directory, config))
        return Result(directory, interrupted)

    monkeypatch.setattr(qmix_jax, "train", lambda config, path: append(path, config))
    monkeypatch.setattr(qmix_jax, "resume", append)
    monkeypatch.setattr(
        qmix_jax, "train_many", lambda jobs, *_, **__: [append(*job[1::-1]) for job in jobs]
    )
    return recorded


@pytest.mark.slow
def test_every_recipe_has_a_valid_configuration(recorded, tmp_path):
    recipes = record.recipes()
    for name, recipe in recipes.items():
        recipe(tmp_path / name)
    # Most recipes train once, the two resumed ones twice, the sweep and the halving four jobs each.
    assert len(recorded) == len(recipes) + 2 + 2 * (4 - 1)


def test_a_resumed_run_is_cut_at_half_and_interrupted_runs_are_not_recorded(
    recorded, tmp_path, monkeypatch
):
    record.recipes()["resumed/two_step"](tmp_path)
    (_, short), (_, changes) = recorded
    assert short.trainer.env_steps == 1_500 and changes == {"trainer.env_steps": 3_000}
    assert short.checkpoint.enabled and short.checkpoint.replay == "always"
    monkeypatch.setattr(qmix_jax, "train", lambda _, path: Result(path, interrupted=True))
    for name in ("resumed/two_step", "two_step/qmix"):
        with pytest.raises(KeyboardInterrupt):
            record.recipes()[name](tmp_path)


def test_import_cycles_with_and_without_late_imports(tmp_path):
    for name, text in {
        "__init__": "",
        "a": "from pack import b",
        "b": "from pack.d import e\nif typing.TYPE_CHECKING:\n    from pack import a",
        "d/__init__": "",
        "d/e": "def late():\n    from pack.a import thing",
    }.items():
        path = tmp_path / "qmix_jax" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("pack", "qmix_jax"))
    imports = structure.imports_of(tmp_path)
    assert structure.find_cycles(imports, late=False) == []
    assert structure.find_cycles(imports, late=True) == [
        ["qmix_jax.a", "qmix_jax.b", "qmix_jax.d.e"]
    ]
    level = {"b": 0, "a": 1, "d": 2}
    upward = structure.upward_imports(imports, level)
    assert [(x.source, x.target) for x in upward] == [("qmix_jax.b", "qmix_jax.d.e")]


def test_helpers_count_their_uses_and_statements():
    source = '''
def public(x):
    return _once(_often(x)) + _often(x)
def _once(x):
    """Text."""
    return x
def _often(x):
    y = x
    return _often(y)
def __magic__(x): ...
'''
    assert structure.helpers(source) == [("_once", 1, 1), ("_often", 2, 2)]


def test_repeated_class_names_are_counted_without_contract_names():
    first = "class Config: ...\nclass Job: ...\ndef f():\n    class Row: ..."
    second = "class Config: ...\nclass Row: ...\nclass Run: ..."
    assert structure.repeated_classes([first, second]) == {"Row": 2}


def test_vague_bindings_are_variables_parameters_functions_and_imports():
    source = """
from toys import whole, x as own
import numbers
def found(one, *, numbers):
    own = one + found
    for one in own: ...
    return [one for one in one]
"""
    assert structure.vague_bindings([source, "x = found.one"]) == {
        "found": 1, "own": 2, "one": 3, "whole": 1, "numbers": 2,
    }  # fmt: skip


def test_sizes_of_the_folders_of_a_package(tmp_path):
    for name in ("__init__", "plan", "runs/a", "runs/deep/b", "core/c"):
        path = tmp_path / "pack" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n" * 600)
    assert structure.folder_sizes(tmp_path / "pack") == [
        "core 1 files 600 lines", "pack 2 files 1,200 lines", "runs 2 files 1,200 lines",
    ]  # fmt: skip
