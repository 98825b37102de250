"""`qmix-jax rerun`: equal, modified and shortened runs, and directories without a run."""

import json
import shutil

import pytest
from toys import command_line, members

import qmix_jax
from qmix_jax import config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "run"
    cfg = members.small(
        seed=5,
        seeds=2,
        trainer={"env_steps": 400},
        logger={"custom": {"name": "toys.recording_logger"}},
    )
    return qmix_jax.train(cfg, directory).directory


@pytest.fixture
def copy(finished, tmp_path):
    """A copy to modify."""
    return shutil.copytree(finished, tmp_path / "copy")


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.slow
def test_a_rerun_is_equal_bit_for_bit(finished, tmp_path, capsys):
    result = qmix_jax.rerun(finished, tmp_path / "again")
    assert result.equal and result.comparison.verdict == "exact" and not result.differences
    assert result.comparison.n_rows == len((finished / "metrics.jsonl").read_text().splitlines())
    assert not (tmp_path / "again" / "recorded.jsonl").exists()
    assert "equal, bit for bit" in capsys.readouterr().out


@pytest.mark.slow
def test_a_changed_value_is_reported_with_exit_code_1(copy, capsys):
    lines = (copy / "metrics.csv").read_text().splitlines()
    header, row = lines[0].split(","), lines[3].split(",")
    at = (
        header.index("train/loss")
        if row[header.index("train/loss")]
        else header.index("eval/return")
    )
    row[at] = "7.25"
    lines[3] = ",".join(row)
    (copy / "metrics.csv").write_text("\n".join(lines) + "\n")
    edit(copy / "manifest.json", '"jaxmarl": "', '"jaxmarl": "0.0.')
    assert command_line.run("rerun", str(copy)) == 1
    out = capsys.readouterr().out
    assert "metrics.csv line 4 (" in out and f"column {header[at]}: 7.25 became" in out
    assert "versions.jaxmarl: 0.0." in out and "likely jaxmarl" in out
    assert (copy.with_name("copy.rerun-1") / "metrics.csv").is_file()


@pytest.mark.slow
def test_a_run_that_ended_early_is_repeated_up_to_its_end(copy, tmp_path, capsys):
    lines = (copy / "metrics.csv").read_text().splitlines(keepends=True)
    steps = [float(line.split(",")[1]) for line in lines[1:]]
    rows = [line for line, step in zip(lines[1:], steps, strict=True) if step < max(steps)]
    (copy / "metrics.csv").write_text("".join([lines[0], *rows]))
    result = qmix_jax.rerun(copy, tmp_path / "again")
    assert result.comparison.verdict == "exact" and result.comparison.n_rows == len(rows)
    out = capsys.readouterr().out
    assert "it was repeated up to there" in " ".join(out.split())


def test_a_directory_that_is_not_a_run_is_refused_in_one_line(copy, tmp_path, capsys):
    for path, message in (
        (tmp_path, "is not a run directory: no manifest.json with `config` and `plan`"),
        (tmp_path / "nowhere", "is not a run directory"),
    ):
        assert command_line.run("rerun", str(path)) == 2
        assert message in capsys.readouterr().err
    edit(copy / "config.yaml", "gamma: 0.99", "gamma: 0.98")
    with pytest.raises(config.ConfigError, match=r"changed after the run, in hparams\.gamma"):
        qmix_jax.rerun(copy)
    (copy / "manifest.json").write_text(json.dumps([1]))
    with pytest.raises(config.ConfigError, match="not the manifest of a run"):
        qmix_jax.rerun(copy)


def test_a_run_without_rows_is_refused(copy):
    header = (copy / "metrics.csv").read_text().splitlines(keepends=True)[0]
    (copy / "metrics.csv").write_text(header)
    with pytest.raises(config.ConfigError, match="no row of metrics"):
        qmix_jax.rerun(copy)
