"""Finding and reading run directories, broken ones included."""

import pytest

from qmix_jax import config
from qmix_jax.reports import collect

SCORES = {0: [0.0, 0.5, 1.0]}


def names(paths, root):
    return [str(path.relative_to(root)) for path in paths]


def test_find_returns_runs_at_any_depth_in_sorted_order(make_run, tmp_path):
    for name in ("b/deep/er/0", "a", "b/1", "c/0"):
        make_run(name, SCORES)
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "b" / "notes.txt").write_text("x")
    root = tmp_path / "runs"
    assert names(collect.find([root]), root) == ["a", "b/1", "b/deep/er/0", "c/0"]
    paths = collect.find([root / "c", root / "b" / "1", root])
    assert names(paths, root) == ["c/0", "b/1", "a", "b/deep/er/0"], "each once"


def test_links_are_followed_once_and_loops_end(make_run, tmp_path):
    run = make_run("sweep/0", SCORES)
    sweep = run.parent
    (sweep / "again").symlink_to(run)
    (sweep / "up").symlink_to(sweep.parent)
    (sweep / "dangling").symlink_to(tmp_path / "nowhere")
    gathered = tmp_path / "gathered"
    gathered.mkdir()
    (gathered / "link").symlink_to(run)
    assert collect.find([sweep]) == (run,)
    assert collect.find([gathered, sweep]) == (gathered / "link",)
    runs, warnings = collect.collect([gathered])
    assert len(runs) == 1 and warnings == ()


def test_skipped_runs_are_reported(make_run, tmp_path):
    make_run("good", SCORES)
    (make_run("torn", SCORES) / "manifest.json").unlink()
    header = (tmp_path / "runs" / "good" / "metrics.csv").read_text().splitlines()[0]
    (make_run("young", SCORES) / "metrics.csv").write_text(f"{header}\n")
    (make_run("started", SCORES) / "metrics.csv").unlink()
    runs, warnings = collect.collect([tmp_path / "runs"])
    assert names([run.path for run in runs], tmp_path / "runs") == ["good"]
    assert [line.rpartition("/")[2] for line in warnings] == [
        "started: skipped, it has no metrics.csv",
        "torn: skipped, it has no manifest.json",
        "young: skipped, it has no evaluation yet",
    ]


def test_an_incomplete_last_line_is_ignored(make_run):
    path = make_run("0", SCORES)
    with (path / "metrics.csv").open("a") as file:
        file.write("eval,4")
    (run,), _ = collect.collect([path])
    assert run.metrics["env_steps"].max() == 200


def test_finished_running_and_failed_runs_are_distinguished(make_run):
    finished = collect.read(make_run("finished", SCORES))
    running = collect.read(make_run("running", SCORES, finished=False))
    failed = collect.read(make_run("failed", SCORES, failure="train/loss is nan"))
    assert (finished.unfinished, finished.failure, finished.task) == ("", None, "toy/a")
    assert running.unfinished == "unfinished at 200 of 300 env steps"
    assert (failed.unfinished, failed.failure) == ("", "train/loss is nan")


BROKEN = {
    "ragged": ("metrics.csv", "kind,env_steps,update,gradient_step,seed\neval,1,2\n"),
    "text": ("metrics.csv", "kind,env_steps,update,gradient_step,seed\neval,1,2,3,x\n"),
    "column": ("metrics.csv", "kind,env_steps\neval,1\n"),
    "cell": ("metrics.csv", "kind,env_steps,update,gradient_step,seed\neval,1,2,3,\n"),
    "binary": ("metrics.csv", b"\xff\xfe\x00\n"),
    "no JSON": ("manifest.json", "{"),
    "no plan": ("manifest.json", "{}"),
    "no mapping": ("manifest.json", "[]"),
    "no YAML": ("config.yaml", "a: [1"),
    "no keys": ("config.yaml", "text"),
    "no text": ("config.yaml", b"\xff\xfe"),
}


@pytest.mark.parametrize(("name", "text"), BROKEN.values(), ids=BROKEN)
def test_error_for_a_broken_file_names_it_in_one_line(name, text, make_run, tmp_path):
    make_run("good", SCORES)
    content = text if isinstance(text, bytes) else text.encode()
    (make_run("bad", SCORES) / name).write_bytes(content)
    with pytest.raises(config.ConfigError) as caught:
        collect.collect([tmp_path / "runs"])
    message = str(caught.value)
    assert f"bad/{name}" in message
    assert "\n" not in message


def test_directories_without_runs_are_errors(make_run, tmp_path):
    run = make_run("0", SCORES)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for directory, message in (
        ("nowhere", "nowhere' does not exist; give directories that `qmix-jax train` wrote"),
        ("file", "file' is not a directory"),
        ("empty", "empty' has no run"),
    ):
        with pytest.raises(config.ConfigError, match=message):
            collect.collect([run, tmp_path / directory])
    with pytest.raises(config.ConfigError, match="no directory; give at least one"):
        collect.collect([])


def test_runs_without_any_evaluation_are_an_error(make_run):
    path = make_run("0", {0: []} | {1: [float("nan")]})
    with pytest.raises(config.ConfigError, match=r"no run has been evaluated yet: .*0: skipped"):
        collect.collect([path])
