"""Checkpoint folders: complete or absent, the newest stay, errors are reported in one line."""

import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from qmix_jax import config
from qmix_jax.runs import checkpoint, parameters

META = {"jobs": [], "scores": [float("-inf"), 1.0]}


def settings(**values):
    return config.CheckpointConfig(**{"every_s": 0.0, **values})


def arrays(value):
    return {"state/x": np.full((2, 3), value, np.float32), "state/learner/key": np.uint32([[1, 2]])}


def save(folder, *steps, notes=None, **values):
    notes = [] if notes is None else notes
    with checkpoint.CheckpointStore(folder, settings(**values), notes.append) as store:
        for step in steps:
            store.save(step, META, arrays(step))
    return notes


def newest(folder):
    return checkpoint.newest(folder / checkpoint.FOLDER)


def test_round_trip(tmp_path):
    assert newest(tmp_path) is None
    save(tmp_path, 30)
    saved = newest(tmp_path)
    assert (saved.step, saved.path) == (30, tmp_path / "checkpoints" / "30")
    assert saved.meta["scores"] == META["scores"] and saved.meta["jobs"] == []
    loaded = saved.load()
    assert loaded.keys() == arrays(30).keys()
    for name, values in arrays(30).items():
        np.testing.assert_array_equal(loaded[name], values)
        assert loaded[name].dtype == values.dtype


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_checkpoints_stay(keep, tmp_path):
    steps = [5, 10, 100, 1000]
    save(tmp_path, *steps[:2], keep=keep)
    save(tmp_path, *steps[2:], keep=keep)
    assert checkpoint.complete_steps(tmp_path / "checkpoints") == steps[-keep:]
    assert newest(tmp_path).load()["state/x"][0, 0] == 1000


def test_a_checkpoint_is_due_at_intervals_and_at_the_end(tmp_path):
    with checkpoint.CheckpointStore(tmp_path, settings(every_s=1e6), print) as store:
        assert store.due(1, last=False), "the first one is due at once"
        store.save(1, META, arrays(1))
        store.wait()
        assert not store.due(2, last=False) and store.due(2, last=True)
        assert not store.due(1, last=True), "it is already saved"
    with checkpoint.CheckpointStore(tmp_path, settings(enabled=False), print) as store:
        assert not store.due(3, last=True)


def test_saving_restores_the_level_of_absls_logger(tmp_path):
    logger = logging.getLogger("absl")
    level = logger.level
    save(tmp_path, 1)
    assert logger.level == level


def test_a_full_disk_leaves_the_last_checkpoint_and_training_continues(tmp_path, monkeypatch):
    write, notes = parameters.write_arrays, []

    def full(file, arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with checkpoint.CheckpointStore(tmp_path, settings(), notes.append) as store:
        store.save(10, META, arrays(10))
        store.wait()
        monkeypatch.setattr(parameters, "write_arrays", full)
        store.save(20, META, arrays(20))
        store.wait()
        (line,) = notes
        assert line.startswith("checkpoint: cannot write env step 20 to ")
        assert (
            "(No space left on device); the last one is of env step 10; training continues" in line
        )
        assert [path.name for path in (tmp_path / "checkpoints").glob("[0-9]*")] == ["10"]
        monkeypatch.setattr(parameters, "write_arrays", write)
        store.save(30, META, arrays(30))
    assert newest(tmp_path).step == 30 and len(notes) == 1


def test_a_half_written_checkpoint_is_ignored_and_removed(tmp_path):
    save(tmp_path, 10)
    incomplete = tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp"
    (incomplete / "default").mkdir(parents=True)
    (incomplete / "default" / "arrays.npz").write_bytes(b"half")
    assert newest(tmp_path).step == 10
    save(tmp_path, 30)
    assert not incomplete.exists() and newest(tmp_path).step == 30


def truncate(path):
    file = path / "default" / "arrays.npz"
    file.write_bytes(file.read_bytes()[:-40])


def flip_bit(path):
    file = path / "default" / "arrays.npz"
    data = bytearray(file.read_bytes())
    data[data.index(np.full(3, 20, np.float32).tobytes())] ^= 1
    file.write_bytes(data)


def remove_meta(path):
    (path / "default" / "meta.json").unlink()


def replace_meta(path):
    (path / "default" / "meta.json").write_text("{}")


@pytest.mark.parametrize("damage", [truncate, flip_bit, remove_meta, replace_meta])
@pytest.mark.parametrize("earlier", [(), (10,)])
def test_an_error_of_a_damaged_checkpoint_names_the_previous_one(damage, earlier, tmp_path):
    save(tmp_path, *earlier, 20)
    path = tmp_path / "checkpoints" / "20"
    damage(path)
    with pytest.raises(config.ConfigError, match="is damaged or of another program") as error:
        newest(tmp_path).load()
    text = str(error.value)
    assert "\n" not in text and f"checkpoint: {str(path)!r}" in text
    fix = "resume from env step 10, the one before" if earlier else "start again"
    assert text.endswith(f"remove that folder to {fix}")


def test_a_checkpoint_of_an_older_version_is_refused_in_one_line(tmp_path):
    save(tmp_path, 20)
    file = tmp_path / "checkpoints" / "20" / "default" / "meta.json"
    file.write_text(file.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(config.ConfigError, match="has format 1, but this version reads") as error:
        newest(tmp_path)
    assert "resume with the version of qmix_jax that wrote it" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_killed_process_releases_its_lock(tmp_path):
    code = (
        "import sys, pathlib\nfrom qmix_jax.runs import checkpoint\n"
        "with checkpoint.lock(pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(config.ConfigError, match="another process is training in"):
            save(tmp_path, 1)
        other.kill()
    save(tmp_path, 1)


def test_an_unwritable_folder_is_reported_in_one_line(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(config.ConfigError, match=r"run directory: cannot write to .*checkpoints"):
        save(tmp_path, 1)


def test_describe():
    assert checkpoint.describe(settings(every_s=60.0), 3 * 10**9) == (
        "checkpoint every 60 s, keeping the newest 2, up to 3GB of replay in each"
    )
    assert "without the replay" in checkpoint.describe(settings(replay="never"), 3 * 10**9)
    assert "cannot be resumed" in checkpoint.describe(settings(enabled=False), 1)
