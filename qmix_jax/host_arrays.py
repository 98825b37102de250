"""Copies members between devices and host: rounds of trees there, NumPy arrays [P, ...] here."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

_REPLAY = "replay/"
Tree = Any
Rounds = tuple[Tree, ...]
"""Trees of arrays [size, ...]: one per call of the program, all members in order; the last one is
padded with copies of the last member."""


def names(tree: Tree) -> list[str]:
    """Returns the path of every leaf, such as `learner/params/agent/head/kernel`, in leaf order."""
    paths, _ = jax.tree.flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def to_host(rounds: Rounds, n_members: int, limits: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Copies all leaves to the host, by name, without padding; typed keys as their data.

    Args:
      n_members: P.
      limits: name prefix -> number of entries to copy of the axis after the members'; 0 omits the
        arrays.
    """
    arrays = {}
    leaves = zip(*(jax.tree.leaves(tree) for tree in rounds), strict=True)
    for name, parts in zip(names(rounds[0]), leaves, strict=True):
        limit = next((n for prefix, n in limits.items() if name.startswith(prefix)), None)
        if limit != 0:
            arrays[name] = _copy(parts, limit)[:n_members]
    return arrays


def to_devices(
    arrays: Mapping[str, np.ndarray], template: Tree, n_rounds: int, sharding: Sharding
) -> Rounds:
    """Copies the arrays of `to_host` to devices, as rounds of trees.

    Args:
      arrays: by name; replay arrays may have fewer entries than the template, or be missing: the
        others are zeros.
    Raises: ValueError as `check`.
    """
    check(arrays, template)
    leaves, structure = jax.tree.flatten(template)
    placed = [
        _distribute(_fill(arrays.get(name), like), like, n_rounds, sharding)
        for name, like in zip(names(template), leaves, strict=True)
    ]
    return tuple(jax.tree.unflatten(structure, leaves) for leaves in zip(*placed, strict=True))


def check(arrays: Mapping[str, np.ndarray], template: Tree) -> None:
    """Raises: ValueError for an array that does not fit its leaf, or is missing or unknown."""
    expected = dict(zip(names(template), jax.tree.leaves(template), strict=True))
    for name in {**expected, **arrays}:
        if name not in expected:
            raise ValueError(f"{name!r} is not an array of this program")
        if name not in arrays and not name.startswith(_REPLAY):
            raise ValueError(f"{name!r} is missing")
        if name in arrays:
            _check_leaf(name, arrays[name], _data_shape(expected[name]))


def select_members(
    rounds: Rounds, members: Sequence[int], template: Tree, n_rounds: int, sharding: Sharding
) -> Rounds:
    """Returns new rounds with some members of other rounds, unchanged."""
    leaves = zip(*(jax.tree.leaves(tree) for tree in rounds), strict=True)
    placed = [
        _distribute(_copy(parts, None)[list(members)], like, n_rounds, sharding)
        for parts, like in zip(leaves, jax.tree.leaves(template), strict=True)
    ]
    structure = jax.tree.structure(template)
    return tuple(jax.tree.unflatten(structure, leaves) for leaves in zip(*placed, strict=True))


def _copy(parts: Sequence[jax.Array], limit: int | None) -> np.ndarray:
    """Concatenates the members of all rounds. No view of device memory outlives the call: it would
    prevent the next program from reusing that memory.
    """
    parts = [jax.random.key_data(x) if _is_key(x) else x for x in parts]
    size = len(parts[0])
    shape = parts[0].shape[1:] if limit is None else (limit, *parts[0].shape[2:])
    result = np.empty((len(parts) * size, *shape), parts[0].dtype)
    for i, part in enumerate(parts):
        rows = result[i * size : (i + 1) * size]
        for shard in part.addressable_shards:
            values = np.asarray(shard.data)
            rows[shard.index[0]] = values if limit is None else values[:, :limit]
    return result


def _data_shape(like: Any) -> Any:
    """The shape of a leaf; for typed keys, the shape of their data."""
    return jax.eval_shape(jax.random.key_data, like) if _is_key(like) else like


def _check_leaf(name: str, values: np.ndarray, data: Any) -> None:
    """Accepts replay arrays with fewer entries than their leaf."""
    fits = values.shape[1:] == data.shape[1:]
    if name.startswith(_REPLAY) and values.ndim == data.ndim:
        fits = values.shape[2:] == data.shape[2:] and values.shape[1] <= data.shape[1]
    if not fits or values.dtype != data.dtype:
        raise ValueError(
            f"{name!r} has {values.dtype}{list(values.shape[1:])} per member; this program expects "
            f"{data.dtype}{list(data.shape[1:])}"
        )


def _fill(values: np.ndarray | None, like: Any) -> np.ndarray:
    """Returns the array with zeros for missing entries."""
    data = _data_shape(like)
    if values is None:
        return np.zeros((1, *data.shape[1:]), data.dtype)
    if values.shape[1:2] < data.shape[1:2]:
        missing = data.shape[1] - values.shape[1]
        return np.pad(values, [(0, 0), (0, missing), *[(0, 0)] * (values.ndim - 2)])
    return values


def _distribute(
    values: np.ndarray, like: Any, n_rounds: int, sharding: Sharding
) -> list[jax.Array]:
    size = like.shape[0]
    padding = np.repeat(values[-1:], n_rounds * size - len(values), axis=0)
    rounds = np.concatenate([values, padding]).reshape(n_rounds, size, *values.shape[1:])
    placed = [jax.device_put(members, sharding) for members in rounds]
    return [jax.random.wrap_key_data(x) for x in placed] if _is_key(like) else placed


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
