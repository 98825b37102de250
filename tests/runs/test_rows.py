"""Rows reach all files and loggers; a failing logger does not stop the run."""

import json

import pytest
from toys import members

import qmix_jax
from qmix_jax import api, config, groups
from qmix_jax.loggers import base
from qmix_jax.runs import rows, storage

NAMES = ("eval/return", "train/loss")


def row(step, seed, **metrics):
    return {
        "kind": "train", "env_steps": step, "update": step, "gradient_step": step, "seed": seed,
        **metrics,
    }  # fmt: skip


def recording(**options):
    return {"custom": {"name": "toys.recording_logger", "options": options}}


def load(logger, **changes):
    return members.small(logger=logger, seed=3, **changes)


def recorded(path):
    return [json.loads(line) for line in (path / "recorded.jsonl").read_text().splitlines()]


def test_a_logger_gets_the_finite_values_of_every_row(tmp_path):
    lines = []
    with rows.open_rows(load(recording(), seeds=2), tmp_path, NAMES, lines.append) as opened:
        for step in (1, 2):
            values = {"train/loss": 0.5 * step, "eval/return": float("nan")}
            opened.write(row(step, seed, **values) for seed in (3, 4))
    started, *written, ended = recorded(tmp_path)
    assert started == {"seeds": [3, 4], "resumed_after": None}
    assert written == [
        row(step, seed, **{"train/loss": 0.5 * step}) for step in (1, 2) for seed in (3, 4)
    ]
    assert ended == "closed"
    assert lines == ["logger toys.recording_logger: recorded.jsonl"]
    assert len(storage.read_metrics(tmp_path / "metrics.csv")["seed"]) == 4


@pytest.mark.parametrize(("breaks", "n_written"), [("make", 0), ("write", 2), ("close", 3)])
def test_a_failing_logger_is_reported_in_one_line_and_the_run_continues(
    tmp_path, breaks, n_written
):
    lines = []
    logger = {**recording(breaks=breaks, after=1), "tensorboard": {}}
    with rows.open_rows(load(logger), tmp_path, NAMES, lines.append) as opened:
        for step in (1, 2, 3):
            opened.write([row(step, 3, **{"train/loss": 1.0})])
    errors = [line for line in lines if "toys.recording_logger: RuntimeError" in line]
    assert errors == [
        f"logger toys.recording_logger: RuntimeError: no {breaks} today; "
        "logger disabled, the run continues"
    ]
    assert sum("env_steps" in line for line in recorded(tmp_path)) == n_written
    assert len(storage.read_metrics(tmp_path / "metrics.csv")["seed"]) == 3
    assert len(list(tmp_path.glob("tensorboard/seed_3/events.*"))) == 1


def test_a_logger_is_closed_as_failed_if_the_run_failed(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        rows.open_rows(load(recording()), tmp_path, NAMES, print),
    ):
        raise ZeroDivisionError
    assert recorded(tmp_path)[-1] == "failed"


def test_a_logger_that_cannot_start_is_tried_for_one_job_only(tmp_path):
    lines, failed = [], set()
    for i in range(3):
        path = storage.claim(tmp_path / str(i))
        with rows.open_rows(
            load(recording(breaks="make")), path, NAMES, lines.append, failed=failed
        ):
            pass
    assert len(lines) == 1 and failed == {"toys.recording_logger"}


def test_parts_of_a_run_log_to_the_run_directory(tmp_path):
    path = storage.claim(tmp_path / f"{rows.PART_PREFIX}1")
    with rows.open_rows(load(recording()), path, NAMES, print):
        pass
    assert recorded(tmp_path)


def test_loggers_do_not_separate_programs():
    with_logger, without = load(recording()), load({})
    assert len(groups.split([with_logger, without])) == 1
    assert config.load(config.dump(with_logger)) == with_logger


@pytest.mark.parametrize("package", ["tensorboardX", "wandb"])
def test_a_missing_extra_is_reported_before_compiling(tmp_path, monkeypatch, package):
    real = base.importlib.util.find_spec
    monkeypatch.setattr(
        base.importlib.util, "find_spec", lambda name: None if name == package else real(name)
    )
    name = package.removesuffix("X")
    with pytest.raises(config.ConfigError, match=rf"logger={name} needs package .*\[{name}"):
        qmix_jax.train(load({name: {}}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("logger", "message"),
    [
        ({"tensorbord": {}}, "unknown key 'logger.tensorbord'; did you mean 'tensorboard'"),
        (
            {"wandb": {"projects": "x"}},
            "unknown key 'logger.wandb.projects'; did you mean 'project'",
        ),
        ({"wandb": True}, "logger.wandb=True: input should be"),
        ({"custom": {"name": "nowhere.at_all"}}, "no module 'nowhere' can be imported"),
    ],
)
def test_config_errors_name_the_key(logger, message):
    with pytest.raises(config.ConfigError, match=message):
        load(logger)


class InSlices(api.Programs):
    """Two members at a time, even if more fit."""

    def get(self, group, display):
        population, _ = super().get(group, display)
        return population, 2


@pytest.mark.slow
def test_slices_of_a_sweep_write_to_the_loggers_of_each_job(tmp_path):
    shared = {
        "population": {"batching": "map", "devices": 1},
        "trainer": {"env_steps": 300},
    }
    configs = [
        load(recording(), seeds=2, hparams={"gamma": 0.9}, **shared),
        load(recording(breaks="write"), seeds=1, **shared),
    ]
    jobs = [api.Job(cfg, tmp_path / str(i)) for i, cfg in enumerate(configs)]
    first, second = api.train_many(jobs, programs=InSlices())
    started, *written, ended = recorded(tmp_path / "0")
    assert started["seeds"] == [3, 4] and ended == "closed"
    columns = first.metrics
    assert [(r["seed"], r["env_steps"]) for r in written] == list(
        zip(columns["seed"], columns["env_steps"], strict=True)
    )
    assert recorded(tmp_path / "1")[-1] == "failed"
    assert second.metrics["env_steps"].max() == columns["env_steps"].max()
