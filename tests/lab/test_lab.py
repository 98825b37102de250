"""`qmix-jax lab` from start to end, and its error messages."""

import json

import pytest

from qmix_jax.cli import main

TINY = (
    "--games", "COORD,two_step", "--algos", "vdn,iql", "seeds=2", "trainer.env_steps=64",
    "trainer.warm_up=64", "trainer.n_envs=4", "replay.capacity=64", "replay.batch_size=8",
    "agent.options.hidden=8",
)  # fmt: skip


@pytest.mark.slow
def test_the_lab_writes_a_page_pictures_and_json(tmp_path, capsys):
    assert main.main(["lab", *TINY, "--out", str(tmp_path / "lab")]) == 0
    folder = tmp_path / "lab"
    results = json.loads((folder / "lab.json").read_text())
    assert [(r["game"], r["algo"]) for r in results] == [
        ("COORD", "vdn"), ("COORD", "iql"), ("two_step", "vdn"), ("two_step", "iql"),
    ]  # fmt: skip
    assert all(sum(entry["seeds"] for entry in r["reached"]) == r["seeds"] == 2 for r in results)
    assert [len(r["points"]) for r in results] == [1, 1, 3, 3]
    assert {path.name for path in folder.glob("*.png")} == {"COORD.png", "two_step.png"}
    assert (folder / "runs" / "COORD_vdn" / "metrics.csv").exists()
    page = (folder / "lab.md").read_text()
    assert "## two_step" in page
    assert "to additive" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--games", "Q4"), "lab: --games 'Q4': did you mean 'Q3'"),
        (("--algos", "qmx"), "lab: --algos 'qmx': did you mean 'qmix'"),
        (
            ("--games", "two_step", "--algos", "vdn", "env=switch_riddle"),
            "lab: 'two_step' is not a game of two agents",
        ),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["lab", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_second_call_skips_finished_runs_and_resumes_others(tmp_path, capsys):
    folder = tmp_path / "lab"
    arguments = ("lab", "--games", "COORD", *TINY[2:], "--out", str(folder))
    assert main.main(list(arguments)) == 0
    first = json.loads((folder / "lab.json").read_text())
    trained = (folder / "runs" / "COORD_vdn" / "metrics.csv").stat().st_mtime_ns
    (folder / "runs" / "COORD_iql" / "parameters_final.npz").unlink()  # as if killed
    assert main.main(list(arguments)) == 0
    assert json.loads((folder / "lab.json").read_text()) == first
    assert (folder / "runs" / "COORD_vdn" / "metrics.csv").stat().st_mtime_ns == trained
    assert (folder / "runs" / "COORD_iql" / "parameters_final.npz").is_file()
    assert "resume: from " in capsys.readouterr().out
    assert main.main([*arguments, "hparams.gamma=0.5"]) == 2
    assert "has a run with other settings (hparams.gamma)" in capsys.readouterr().err
