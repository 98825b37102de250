"""Network parameters as a plain `.npz` file: readable without this package, without pickle."""

import os
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from qmix_jax import config
from qmix_jax.runtime import sinks


def save_parameters(path: str | os.PathLike[str], params: Mapping[str, Any]) -> None:
    """Writes nested parameters, all or nothing.

    An entry is named after its path, as `agent/gru/recurrent_kernel`; an empty mapping is kept as
    an empty entry whose name ends in `/`.

    Args:
      path: the file, as a rule `*.npz`.
      params: nested mappings of arrays [P, ...] with a dtype that NumPy itself has.
    Raises:
      ValueError: a key that is not text or has a `/` in it, or a leaf that is no such array.
    """
    flat = dict(_flatten(params, ""))
    with sinks.atomic(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in flat.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def load_parameters(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `save_parameters` wrote.

    Returns:
      Nested dicts of NumPy arrays [P, ...].
    Raises:
      ConfigError: no such file, or not a file of parameters.
    """
    params: dict[str, Any] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                _insert(params, name.split("/"), archive[name])
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise config.ConfigError(
            f"parameters: cannot read {str(path)!r} ({error}); give a .npz file saved by a run"
        ) from error
    return params


def _flatten(node: Any, path: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(node, Mapping):
        if path and not node:
            yield f"{path}/", np.zeros(0, np.float32)
        for key, child in node.items():
            if not isinstance(key, str) or not key or "/" in key:
                raise ValueError(f"parameters: key {key!r} under {path!r} must be text without '/'")
            yield from _flatten(child, f"{path}/{key}" if path else key)
        return
    if not hasattr(node, "dtype") or node.dtype.kind not in "biuf":
        kind = getattr(node, "dtype", type(node).__name__)
        raise ValueError(f"parameters: {path!r} is {kind}; expected an array of numbers or bools")
    yield path, np.asarray(node)


def _insert(params: dict[str, Any], keys: list[str], array: np.ndarray) -> None:
    *parents, leaf = keys
    for parent in parents:
        params = params.setdefault(parent, {})
    if leaf:
        params[leaf] = array
