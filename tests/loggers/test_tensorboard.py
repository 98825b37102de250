"""TensorBoard event files, read back record by record."""

import json
import struct

import pytest
from tensorboardX.proto import event_pb2, plugin_hparams_pb2
from toys import members

from qmix_jax import config
from qmix_jax.loggers import base, tensorboard

COLUMNS = ("eval/return", "train/loss")


def events(path):
    """Events of a file: length (8 bytes), its checksum (4), the message, its checksum (4)."""
    data, messages = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        messages.append(event_pb2.Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return messages


def run(directory, resumed_after=None):
    cfg = members.load(seed=3, seeds=2, hparams={"gamma": 0.9})
    return base.RunInfo(directory, config.dump(cfg), (3, 4), COLUMNS, resumed_after)


def write(logger, *steps):
    for step in steps:
        shared = {"kind": "eval", "env_steps": step, "update": 1, "gradient_step": 2}
        logger.write([{**shared, "seed": s, "eval/return": step * s} for s in (3, 4)])
    logger.close(False)


def test_each_seed_is_a_tensorboard_run_over_env_steps(tmp_path):
    write(tensorboard.make(tensorboard.Config(hparams=False), run(tmp_path)), 0, 50)
    for seed in (3, 4):
        (path,) = (tmp_path / "tensorboard" / f"seed_{seed}").iterdir()
        first, *scalars = events(path)
        assert first.file_version == "brain.Event:2"
        assert [
            (event.step, value.tag, value.simple_value)
            for event in scalars
            for value in event.summary.value
        ] == [(0, "eval/return", 0.0), (50, "eval/return", 50.0 * seed)]


def test_hyperparameters_and_configuration_are_written(tmp_path):
    write(tensorboard.make(tensorboard.Config(folder="tb"), run(tmp_path)))
    (path,) = (tmp_path / "tb" / "seed_4").iterdir()
    values = {v.tag: v for event in events(path) for v in event.summary.value}
    plugin = plugin_hparams_pb2.HParamsPluginData.FromString(
        values["_hparams_/session_start_info"].metadata.plugin_data.content
    )
    hparams = plugin.session_start_info.hparams
    assert hparams["hparams.gamma"].number_value == 0.9
    assert hparams["algo"].string_value == "qmix" and hparams["seed"].number_value == 4
    plugin = plugin_hparams_pb2.HParamsPluginData.FromString(
        values["_hparams_/experiment"].metadata.plugin_data.content
    )
    assert [info.name.tag for info in plugin.experiment.metric_infos] == ["eval/return"]
    text = values["config/text_summary"].tensor.string_val[0].decode()
    assert json.loads(text)["hparams"]["gamma"] == 0.9


def test_a_resumed_run_purges_events_after_the_checkpoint(tmp_path):
    write(tensorboard.make(tensorboard.Config(), run(tmp_path)), 0, 50, 100)
    write(tensorboard.make(tensorboard.Config(), run(tmp_path, resumed_after={3: 50})), 100, 150)
    old, new = sorted((tmp_path / "tensorboard" / "seed_3").iterdir())
    purge = events(new)[1]
    assert purge.step == 51 and purge.session_log.status == event_pb2.SessionLog.START
    assert [event.step for event in events(new)[2:]] == [100, 150]
    assert [event.step for event in events(old)[-3:]] == [0, 50, 100]
    _, newest = sorted((tmp_path / "tensorboard" / "seed_4").iterdir())
    assert not any(event.HasField("session_log") for event in events(newest))


@pytest.mark.parametrize("folder", ["/tmp/elsewhere", "../above", ""])
def test_a_folder_outside_the_run_directory_is_refused(folder):
    with pytest.raises(config.ConfigError, match=r"logger\.tensorboard\.folder"):
        tensorboard.check(tensorboard.Config(folder=folder))


def test_a_failed_write_raises_at_once(tmp_path):
    (tmp_path / "tensorboard").write_text("a file in the way")
    with pytest.raises(OSError):
        tensorboard.make(tensorboard.Config(), run(tmp_path))
