"""Network parameters as a plain `.npz` file: readable without this package, without pickle."""

import os
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from qmix_jax import config
from qmix_jax.runs import storage


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
    flat = flatten(params)
    with storage.atomic(path) as file:
        write_arrays(file, flat)


def load_parameters(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `save_parameters` wrote.

    Returns:
      Nested dicts of NumPy arrays [P, ...].
    Raises:
      ConfigError: no such file, or not a file of parameters.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise config.ConfigError(
            f"parameters: cannot read {str(path)!r} ({error}); give a .npz file saved by a run"
        ) from error
    return nest(arrays)


def flatten(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by path, as `save_parameters` names them. Raises: as it does."""
    return dict(_flatten(params, ""))


def nest(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The nested dicts of what `flatten` gave."""
    params: dict[str, Any] = {}
    for name, array in arrays.items():
        _insert(params, name.split("/"), array)
    return params


def below(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays whose names begin so, without that beginning."""
    return {k.removeprefix(prefix): values for k, values in arrays.items() if k.startswith(prefix)}


def write_arrays(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an uncompressed `.npz` archive; NumPy's own writer cannot name every entry."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            _write_array(archive, f"{name}.npy", array)


def _write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    with archive.open(name, "w", force_zip64=True) as entry:
        np.lib.format.write_array(entry, array, allow_pickle=False)


def _flatten(node: Any, path: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(node, Mapping) and (node or not path):
        for key, child in node.items():
            name = _checked(key, path)
            yield from _flatten(child, f"{path}/{name}" if path else name)
    elif isinstance(node, Mapping):
        yield f"{path}/", np.zeros(0, np.float32)
    elif getattr(getattr(node, "dtype", None), "kind", "") in ("b", "i", "u", "f"):
        yield path, np.asarray(node)
    else:
        kind = getattr(node, "dtype", type(node).__name__)
        raise ValueError(f"parameters: {path!r} is {kind}; expected an array of numbers or bools")


def _checked(key: Any, path: str) -> str:
    if not isinstance(key, str) or not key or "/" in key:
        raise ValueError(f"parameters: key {key!r} under {path!r} must be text without '/'")
    return key


def _insert(params: dict[str, Any], keys: list[str], array: np.ndarray) -> None:
    *parents, leaf = keys
    for parent in parents:
        params = params.setdefault(parent, {})
    if leaf:
        params[leaf] = array
