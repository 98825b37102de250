"""Network parameters as a plain `.npz` file: readable without this package and without pickle."""

import os
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from qmix_jax import config
from qmix_jax.runs import storage


def save_parameters(path: str | os.PathLike[str], params: Mapping[str, Any]) -> None:
    """Writes nested parameters atomically.

    Entries are named by their path, such as `agent/gru/recurrent_kernel`; an empty mapping is an
    empty entry whose name ends in `/`.

    Args:
      path: the file, usually `*.npz`.
      params: nested mappings of arrays [P, ...] of bools, integers or floats of NumPy.
    Raises:
      ValueError: a key is not a string or contains `/`, or a leaf is not such an array.
    """
    flat = flatten(params)
    with storage.atomic(path) as file:
        write_arrays(file, flat)


def load_parameters(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a file of `save_parameters`: nested dicts of arrays [P, ...]. Raises: ConfigError."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise config.ConfigError(
            f"parameters: cannot read {str(path)!r} ({error}); give a .npz file saved by a run"
        ) from error
    return nest(arrays)


def flatten(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns arrays by path, named and checked as in `save_parameters`."""
    return dict(_flatten(params, ""))


def nest(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Inverts `flatten`."""
    params: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, leaf = name.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        if leaf:
            node[leaf] = array
    return params


def below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays whose names start with a prefix, named without it."""
    return {k.removeprefix(prefix): values for k, values in arrays.items() if k.startswith(prefix)}


def write_arrays(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an uncompressed `.npz` archive; `np.savez` cannot write every name."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            _write_array(archive, f"{name}.npy", array)


def _write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(name, "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, array, allow_pickle=False)


def _flatten(node: Any, path: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(node, Mapping) and (node or not path):
        if bad := [key for key in node if not isinstance(key, str) or not key or "/" in key]:
            raise ValueError(f"parameters: key {bad[0]!r} under {path!r} must be text without '/'")
        for key, child in node.items():
            yield from _flatten(child, f"{path}/{key}" if path else key)
    elif isinstance(node, Mapping):
        yield f"{path}/", np.zeros(0, np.float32)
    elif getattr(getattr(node, "dtype", None), "kind", "") in ("b", "i", "u", "f"):
        yield path, np.asarray(node)
    else:
        kind = getattr(node, "dtype", type(node).__name__)
        raise ValueError(f"parameters: {path!r} is {kind}; expected an array of numbers or bools")
