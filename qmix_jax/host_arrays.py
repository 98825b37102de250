"""Members between devices and host: rounds of trees there, numpy arrays [P, ...] by name here."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

_REPLAY = "replay/"
Tree = Any
Rounds = tuple[Tree, ...]


def names(tree: Tree) -> list[str]:
    """The path of every leaf, as `learner/params/agent/head/kernel`, in the order of the leaves."""
    paths, _ = jax.tree.flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def to_host(rounds: Rounds, n_members: int, entries: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Copies of all leaves by name, without the padding; keys as their data.

    Args:
      rounds: trees of arrays [size, ...].
      n_members: P.
      entries: beginning of names -> how many entries of the axis after the members' to copy; with 0
        these leaves are left out.
    """
    found = {}
    leaves = zip(*(jax.tree.leaves(tree) for tree in rounds), strict=True)
    for name, parts in zip(names(rounds[0]), leaves, strict=True):
        limit = next((n for prefix, n in entries.items() if name.startswith(prefix)), None)
        if limit != 0:
            found[name] = _copy(parts, limit)[:n_members]
    return found


def to_devices(
    arrays: Mapping[str, np.ndarray], template: Tree, n_rounds: int, sharding: Sharding
) -> Rounds:
    """Rounds of trees from what `to_host` gave, padded with the last member.

    Args:
      arrays: by name; a leaf of the replay may have fewer entries than its template, which end in
        zeros, or be missing, which is zeros.
    Raises:
      ValueError: as `check`.
    """
    check(arrays, template)
    shapes, structure = jax.tree.flatten(template)
    wanted = dict(zip(names(template), shapes, strict=True))
    placed = [_place(arrays.get(name), like, n_rounds, sharding) for name, like in wanted.items()]
    return tuple(jax.tree.unflatten(structure, leaves) for leaves in zip(*placed, strict=True))


def check(arrays: Mapping[str, np.ndarray], template: Tree) -> None:
    """Raises: ValueError where an array does not fit its leaf, or one of the two is missing."""
    wanted = dict(zip(names(template), jax.tree.leaves(template), strict=True))
    for name in {**wanted, **arrays}:
        if name not in wanted:
            raise ValueError(f"{name!r} is no array of this program")
        if name not in arrays and name.startswith(_REPLAY):
            continue
        if name not in arrays:
            raise ValueError(f"{name!r} is missing")
        _check_leaf(name, arrays[name], _data(wanted[name]))


def adopt(
    rounds: Rounds, keep: Sequence[int], template: Tree, n_rounds: int, sharding: Sharding
) -> Rounds:
    """The members `keep` of other rounds, unchanged, in rounds of their own."""
    leaves = zip(*(jax.tree.leaves(tree) for tree in rounds), strict=True)
    placed = [
        _deal(_copy(parts, None)[list(keep)], like, n_rounds, sharding)
        for parts, like in zip(leaves, jax.tree.leaves(template), strict=True)
    ]
    structure = jax.tree.structure(template)
    return tuple(jax.tree.unflatten(structure, row) for row in zip(*placed, strict=True))


def _copy(parts: Sequence[jax.Array], limit: int | None) -> np.ndarray:
    """One array of all rounds' members. No view of a device's memory outlives the call: it would
    keep the next program from writing there.
    """
    parts = [jax.random.key_data(x) if _is_key(x) else x for x in parts]
    size = len(parts[0])
    rest = parts[0].shape[1:] if limit is None else (limit, *parts[0].shape[2:])
    whole = np.empty((len(parts) * size, *rest), parts[0].dtype)
    for number, part in enumerate(parts):
        rows = whole[number * size : (number + 1) * size]
        for shard in part.addressable_shards:
            values = np.asarray(shard.data)
            rows[shard.index[0]] = values if limit is None else values[:, :limit]
    return whole


def _data(like: Any) -> Any:
    """The shape of a leaf, of a key's data."""
    return jax.eval_shape(jax.random.key_data, like) if _is_key(like) else like


def _check_leaf(name: str, values: np.ndarray, data: Any) -> None:
    """The replay may be filled in part."""
    fits = values.shape[1:] == data.shape[1:]
    if name.startswith(_REPLAY) and values.ndim == data.ndim:
        fits = values.shape[2:] == data.shape[2:] and values.shape[1] <= data.shape[1]
    if not fits or values.dtype != data.dtype:
        raise ValueError(
            f"{name!r} has {values.dtype}{list(values.shape[1:])} per member, this program "
            f"{data.dtype}{list(data.shape[1:])}"
        )


def _place(
    values: np.ndarray | None, like: Any, n_rounds: int, sharding: Sharding
) -> list[jax.Array]:
    data = _data(like)
    if values is None:
        values = np.zeros((1, *data.shape[1:]), data.dtype)
    if values.shape[1:2] < data.shape[1:2]:
        rest = data.shape[1] - values.shape[1]
        values = np.pad(values, [(0, 0), (0, rest), *[(0, 0)] * (values.ndim - 2)])
    return _deal(values, like, n_rounds, sharding)


def _deal(values: np.ndarray, like: Any, n_rounds: int, sharding: Sharding) -> list[jax.Array]:
    size = like.shape[0]
    padding = np.repeat(values[-1:], n_rounds * size - len(values), axis=0)
    chunks = np.concatenate([values, padding]).reshape(n_rounds, size, *values.shape[1:])
    placed = [jax.device_put(chunk, sharding) for chunk in chunks]
    return [jax.random.wrap_key_data(x) for x in placed] if _is_key(like) else placed


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
