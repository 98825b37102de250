"""Parameters read back equal in structure, dtypes and bits; nothing is pickled."""

import numpy as np
import pytest

from qmix_jax import config
from qmix_jax.runs import parameters

PARAMS = {
    "agent": {"gru": {"recurrent_kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}},
    "mixer": {},
    "file": np.array([1, 2], np.int32),
    "flag": np.array([True, False]),
}


def test_round_trip(tmp_path):
    path = tmp_path / "parameters.npz"
    parameters.save_parameters(path, PARAMS)
    loaded = parameters.load_parameters(path)
    assert loaded.keys() == PARAMS.keys()
    assert loaded["mixer"] == {}
    kernel = loaded["agent"]["gru"]["recurrent_kernel"]
    np.testing.assert_array_equal(kernel, PARAMS["agent"]["gru"]["recurrent_kernel"])
    assert kernel.dtype == np.float32
    assert loaded["file"].dtype == np.int32
    assert loaded["flag"].dtype == np.bool_


def test_entries_are_readable_with_numpy_alone(tmp_path):
    parameters.save_parameters(tmp_path / "p.npz", PARAMS)
    with np.load(tmp_path / "p.npz", allow_pickle=False) as archive:
        assert archive["agent/gru/recurrent_kernel"].shape == (2, 3, 4)


@pytest.mark.parametrize(
    "params",
    [
        {"a/b": np.zeros(1)},
        {1: np.zeros(1)},
        {"a": (np.zeros(1), np.zeros(1))},
        {"a": np.array([object()])},
    ],
)
def test_unsupported_parameters_are_refused_before_writing(tmp_path, params):
    with pytest.raises(ValueError, match="parameters"):
        parameters.save_parameters(tmp_path / "p.npz", params)
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "pickled.npz", x=np.array([object()]))
    for name in ("missing.npz", "text.npz", "array.npy", "pickled.npz"):
        with pytest.raises(config.ConfigError, match=name):
            parameters.load_parameters(tmp_path / name)
