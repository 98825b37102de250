"""Reports from start to end: page, files, errors, command line, and a trained sweep."""

import html.parser
import json

import numpy as np
import pytest
from toys import members

import qmix_jax
from qmix_jax import api, config
from qmix_jax.cli import main
from qmix_jax.reports import build

FILES = {"report.html", "curves.png", "profile.png", "statistics.json", "marl_eval.json"}
VALUES = {0: [0.0, 0.2, 0.4], 1: [0.0, 0.3, 0.5]}
BETTER = {0: [0.0, 0.6, 0.8], 1: [0.0, 0.7, 0.9]}


class Page(html.parser.HTMLParser):
    """Tags, sources and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def sweep(make_run, tmp_path):
    make_run("0", VALUES, {"hparams.gamma": 0.5})
    make_run("1", BETTER)
    return tmp_path / "runs"


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_report_writes_returns_and_prints(sweep, capsys):
    report = qmix_jax.report(sweep)
    assert report.directory == sweep / "report"
    names = FILES | {"improvement.png", "sensitivity_hparams.gamma.png"}
    assert {path.name for path in report.files} == names == set(content(report.directory))
    assert report.files[0].name == "report.html" and report.warnings == ()
    (ranking,) = report.rankings.values()
    assert [row.setting for row in ranking] == ["hparams.gamma=0.99", "hparams.gamma=0.5"]
    assert ranking[0].seeds == 2
    np.testing.assert_allclose(ranking[0].iqm, (0.5, 1.4 / 3, 1.6 / 3))
    printed = capsys.readouterr().out
    assert "hparams.gamma=0.99" in printed and "toy/a" in printed
    assert str(report.files[0]) in printed


def test_the_page_is_self_contained_and_escapes_text(sweep, make_run):
    make_run("2", VALUES, {"algo.name": "<script>alert(1)</script>&"})
    make_run("3", {0: [0.1]}, {"hparams.gamma": 0.7}, finished=False)
    report = qmix_jax.report(sweep)
    text = report.files[0].read_text()
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    pictures = [path for path in report.files if path.suffix == ".png"]
    assert len(page.links) == page.tags.count("img") == len(pictures) == 5
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "@import" not in text and "url(" not in text
    for row in report.rankings["toy/a"]:
        assert row.setting in page.text
    assert "<script>alert(1)</script>&" in page.text
    assert "unfinished at 0 of 300 env steps" in page.text
    assert "00:30" in page.text and "51" in page.text, "wall time and env steps/s"
    assert "0.10.2" in page.text and "2 x cpu (cpu)" in page.text
    assert "not a new evaluation" in page.text


def test_the_page_names_settings_that_figures_leave_out(sweep):
    page = Page(qmix_jax.report(sweep, top=1).files[0].read_text())
    assert "Settings not shown in the figures: hparams.gamma=0.5." in page.text


def test_statistics_and_raw_data_are_on_disk(sweep):
    report = qmix_jax.report(sweep, last=1, resamples=100)
    written = json.loads((report.directory / "statistics.json").read_text())
    assert written["options"]["last"] == 1 and written["options"]["resamples"] == 100
    (ranking,) = written["views"]
    first, second = ranking["ranking"]
    assert first["scores"] == [[0.8, 0.9]] and second["mean"] == pytest.approx(0.45)
    assert first["iqm"] == pytest.approx({"value": 0.85, "low": 0.8, "high": 0.9})
    assert first["wall_s"] == 30 and first["members"] == 2
    assert ranking["improvement"][0] == {
        "x": "hparams.gamma=0.99", "y": "hparams.gamma=0.5", "value": 1.0, "low": 1.0, "high": 1.0
    }  # fmt: skip
    curve = written["curves"]["toy/a"]["hparams.gamma=0.5"]
    assert curve["env_steps"] == [0, 100, 200] and curve["seeds"] == [0, 1]
    assert curve["iqm"]["value"] == pytest.approx([0.0, 0.25, 0.45])
    raw = json.loads((report.directory / "marl_eval.json").read_text())
    assert raw["toy"]["a"]["hparams.gamma=0.5"]["seed_1"]["absolute_metrics"]["win_rate"] == [0.5]


def test_the_same_runs_give_identical_reports(sweep, tmp_path):
    first = content(qmix_jax.report(sweep, tmp_path / "x").directory)
    again = content(qmix_jax.report([sweep], str(tmp_path / "y")).directory)
    assert first == again


def test_only_files_of_an_earlier_report_are_replaced(sweep, make_run, tmp_path):
    out = tmp_path / "out"
    qmix_jax.report(sweep, out)
    (out / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()}
    qmix_jax.report(sweep / "1", out)
    assert set(content(out)) == FILES | {"notes.txt"}, "figures of swept keys are removed"
    assert (out / "notes.txt").read_text() == "mine"
    assert {path: path.read_bytes() for path in sweep.rglob("*") if path.is_file()} == before


def test_a_directory_with_other_files_is_refused(sweep, tmp_path):
    run, file = sweep / "0", tmp_path / "file"
    file.write_text("")
    before = content(run)
    for out, message in (
        (run, "0' contains config.yaml and no earlier report; choose another --out"),
        (file, "file' is not a directory"),
        (file / "below", "cannot write to .*below"),
    ):
        with pytest.raises(config.ConfigError, match=message):
            qmix_jax.report(sweep, out)
    assert content(run) == before


def test_nothing_is_written_when_a_run_is_broken(sweep, tmp_path):
    (sweep / "1" / "metrics.csv").write_text("kind\nx,y\n")
    with pytest.raises(config.ConfigError, match=r"metrics\.csv' is broken"):
        qmix_jax.report(sweep, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["last", "resamples", "top"])
def test_counts_are_at_least_one(name, sweep):
    with pytest.raises(config.ConfigError, match=f"report: {name}=0 is less than 1"):
        qmix_jax.report(sweep, **{name: 0})


REFUSED = [
    ((), "command line: the following arguments are required: DIR"),
    (("nowhere",), "report: 'nowhere' does not exist; give directories that"),
    (("runs", "--last", "x"), "command line: argument --last: invalid int value: 'x'"),
    (("runs", "--last", "0"), "report: last=0 is less than 1; give at least 1"),
    (("runs", "--foo"), "command line: unrecognized arguments: --foo"),
    (("empty",), "report: 'empty' has no run (config.yaml, manifest.json, metrics.csv); give"),
    (("torn",), "report: 'torn/metrics.csv' is broken ("),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_mistakes_on_the_command_line_are_one_line(
    arguments, message, sweep, make_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    torn = make_run("../torn", VALUES)
    (torn / "metrics.csv").write_text("kind\nx,y\n")
    before = sorted(tmp_path.rglob("*"))
    assert main.main(["report", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_options_on_the_command_line(sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = ["--out", "there", "--last", "1", "--resamples", "60", "--top", "1"]
    assert main.main(["report", "runs/0", *out, "runs/1"]) == 0
    written = json.loads((tmp_path / "there" / "statistics.json").read_text())
    expected = {"last": 1, "resamples": 60, "top": 1, "confidence": 0.95, "bootstrap_seed": 0}
    assert written["options"] == expected
    assert len(written["views"][0]["ranking"]) == 2
    assert "there/report.html" in capsys.readouterr().out


def test_help_describes_the_command(capsys):
    assert main.main(["report", "--help"]) == 0
    assert "qmix-jax report DIR" in capsys.readouterr().out


@pytest.mark.slow
def test_a_report_starts_no_backend(sweep, run_python):
    code = (
        f"import qmix_jax, sys; qmix_jax.report({str(sweep)!r})\n"
        "from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()\n"
        "assert not {'jaxmarl', 'flax', 'hydra', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    result = run_python("-c", code)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two settings by two seeds, trained together."""
    folder = tmp_path_factory.mktemp("real")
    jobs = [
        api.Job(members.small(seeds=2, hparams={"gamma": gamma}), folder / str(i))
        for i, gamma in enumerate((0.9, 0.99))
    ]
    return folder, api.train_many(jobs, folder)


@pytest.mark.slow
def test_report_of_a_trained_sweep(trained, capsys):
    folder, results = trained
    assert main.main(["report", str(folder)]) == 0
    assert "hparams.gamma=0.9" in capsys.readouterr().out
    written = json.loads((folder / "report" / build.STATISTICS).read_text())
    (ranking,) = written["views"]
    by_setting = {row["setting"]: row for row in ranking["ranking"]}
    assert by_setting.keys() == {"hparams.gamma=0.9", "hparams.gamma=0.99"}
    for row in by_setting.values():
        assert len(row["scores"][0]) == 2 and row["wall_s"] > 0 and row["steps_per_s"] > 0
        assert row["shared"] and row["members"] == 4, "members of both runs"
    values = [by_setting[f"hparams.gamma={gamma}"]["iqm"]["value"] for gamma in (0.9, 0.99)]
    assert values == pytest.approx([result.objective for result in results])
    raw = json.loads((folder / "report" / "marl_eval.json").read_text())
    (task,) = (task for env in raw.values() for task in env.values())
    evaluated = results[0].metrics
    rows = (evaluated["kind"] == "eval") & (evaluated["seed"] == 1)
    run = task["hparams.gamma=0.9"]["seed_1"]
    steps = [run[f"step_{i}"] for i in range(rows.sum())]
    assert [step["step_count"] for step in steps] == list(evaluated["env_steps"][rows])
    returns = [step["return"] for step in steps]
    np.testing.assert_allclose(returns, evaluated["eval/return"][rows][:, None])
    assert (folder / "report" / "sensitivity_hparams.gamma.png").stat().st_size > 10_000
