"""Folders of checkpoints: whole or not there, the newest kept, and every fault one clear line."""

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


def test_what_is_read_is_what_was_written(tmp_path):
    assert newest(tmp_path) is None
    save(tmp_path, 30)
    found = newest(tmp_path)
    assert (found.step, found.path) == (30, tmp_path / "checkpoints" / "30")
    assert found.meta["scores"] == META["scores"] and found.meta["jobs"] == []
    loaded = found.load()
    assert loaded.keys() == arrays(30).keys()
    for name, values in arrays(30).items():
        np.testing.assert_array_equal(loaded[name], values)
        assert loaded[name].dtype == values.dtype


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_are_kept(keep, tmp_path):
    steps = [5, 10, 100, 1000]
    save(tmp_path, *steps[:2], keep=keep)
    save(tmp_path, *steps[2:], keep=keep)
    assert checkpoint.complete_steps(tmp_path / "checkpoints") == steps[-keep:]
    assert newest(tmp_path).load()["state/x"][0, 0] == 1000


def test_when_it_is_time(tmp_path):
    with checkpoint.CheckpointStore(tmp_path, settings(every_s=1e6), print) as store:
        assert store.due(1, last=False), "the first one at once"
        store.save(1, META, arrays(1))
        store.wait()
        assert not store.due(2, last=False) and store.wants(2, last=True)
        assert not store.due(1, last=True), "it is there"
    with checkpoint.CheckpointStore(tmp_path, settings(enabled=False), print) as store:
        assert not store.due(3, last=True)


def test_the_callers_logger_is_as_it_was(tmp_path):
    logger = logging.getLogger("absl")
    before = logger.level
    save(tmp_path, 1)
    assert logger.level == before


def test_a_full_disk_keeps_the_last_one_and_training_goes_on(tmp_path, monkeypatch):
    write, notes = parameters.write_arrays, []

    def full(file, found):
        file.write(b"some of it")
        raise OSError(28, "No space left on device")

    with checkpoint.CheckpointStore(tmp_path, settings(), notes.append) as store:
        store.save(10, META, arrays(10))
        store.wait()
        monkeypatch.setattr(parameters, "write_arrays", full)
        store.save(20, META, arrays(20))
        store.wait()
        (line,) = notes
        assert line.startswith("checkpoint: cannot write that of env step 20 in ")
        assert "(No space left on device); the one of env step 10 is kept" in line
        assert [path.name for path in (tmp_path / "checkpoints").glob("[0-9]*")] == ["10"]
        monkeypatch.setattr(parameters, "write_arrays", write)
        store.save(30, META, arrays(30))
    assert newest(tmp_path).step == 30 and len(notes) == 1


def test_what_a_killed_process_left_half_written_is_not_there(tmp_path):
    save(tmp_path, 10)
    torn = tmp_path / "checkpoints" / "20.orbax-checkpoint-tmp"
    (torn / "default").mkdir(parents=True)
    (torn / "default" / "arrays.npz").write_bytes(b"half")
    assert newest(tmp_path).step == 10
    save(tmp_path, 30)
    assert not torn.exists() and newest(tmp_path).step == 30


def truncate(path):
    file = path / "default" / "arrays.npz"
    file.write_bytes(file.read_bytes()[:-40])


def flip(path):
    file = path / "default" / "arrays.npz"
    data = bytearray(file.read_bytes())
    at = data.index(np.full(3, 20, np.float32).tobytes())
    data[at] ^= 1
    file.write_bytes(data)


def no_meta(path):
    (path / "default" / "meta.json").unlink()


def not_ours(path):
    (path / "default" / "meta.json").write_text("{}")


@pytest.mark.parametrize("damage", [truncate, flip, no_meta, not_ours])
@pytest.mark.parametrize("earlier", [(), (10,)])
def test_a_damaged_one_is_one_line_that_says_what_is_left(damage, earlier, tmp_path):
    save(tmp_path, *earlier, 20)
    path = tmp_path / "checkpoints" / "20"
    damage(path)
    with pytest.raises(config.ConfigError, match="is damaged or not of this program") as error:
        newest(tmp_path).load()
    text = str(error.value)
    assert "\n" not in text and f"checkpoint: {str(path)!r}" in text
    left = "to go on from env step 10, the one before" if earlier else "to begin anew"
    assert text.endswith(f"remove that folder {left}")


def test_a_checkpoint_of_an_older_version_is_refused_in_one_line(tmp_path):
    save(tmp_path, 20)
    file = tmp_path / "checkpoints" / "20" / "default" / "meta.json"
    file.write_text(file.read_text().replace('"format": 2', '"format": 1'))
    with pytest.raises(config.ConfigError, match="has format 1, and this version reads") as error:
        newest(tmp_path)
    assert "continue with the version of qmix_jax that wrote it" in str(error.value)
    assert "\n" not in str(error.value)


def test_one_process_at_a_time_and_none_after_a_kill(tmp_path):
    code = (
        "import sys, pathlib\nfrom qmix_jax.runs import checkpoint\n"
        "with checkpoint.lock(pathlib.Path(sys.argv[1])):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(config.ConfigError, match="another process is training in"):
            save(tmp_path, 1)
        other.kill()
    save(tmp_path, 1)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(config.ConfigError, match=r"run directory: cannot write to .*checkpoints"):
        save(tmp_path, 1)


def test_the_cost_is_told():
    assert checkpoint.describe(settings(every_s=60.0), 3 * 10**9) == (
        "checkpoint every 60 s, the newest 2 kept, up to 3GB of replay in each"
    )
    assert "without the replay" in checkpoint.describe(settings(replay="never"), 3 * 10**9)
    assert "cannot go on" in checkpoint.describe(settings(enabled=False), 1)
