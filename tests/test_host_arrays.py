"""Copies of members between devices and host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qmix_jax import host_arrays

SIZE = 2


@pytest.fixture(scope="module")
def sharding():
    return NamedSharding(
        Mesh(np.asarray(jax.devices()[:SIZE]), ("members",)), PartitionSpec("members")
    )


def tree(members, sharding):
    """One round: a scalar, a ring of four entries, and a key for each member."""
    arrays = {
        "scalar": jnp.asarray(members, jnp.int32),
        "replay": {
            "obs": jnp.arange(8.0).reshape(1, 4, 2) + 100.0 * jnp.asarray(members)[:, None, None]
        },
        "key": jnp.stack([jax.random.key(member) for member in members]),
    }
    return jax.device_put(arrays, sharding)


@pytest.fixture
def rounds(sharding):
    """Three members in two rounds, padded with the last one."""
    return tree([1, 2], sharding), tree([3, 3], sharding)


def to_host(rounds, limits=None):
    return host_arrays.to_host(rounds, 3, limits or {})


def test_copies_have_one_member_axis_and_no_padding(rounds):
    arrays = to_host(rounds)
    assert arrays["scalar"].tolist() == [1, 2, 3]
    assert arrays["replay/obs"].shape == (3, 4, 2) and arrays["replay/obs"][2, 1, 0] == 302.0
    np.testing.assert_array_equal(arrays["key"][1], jax.random.key_data(jax.random.key(2)))


def test_copies_are_independent_of_device_memory(rounds):
    arrays = to_host(rounds)
    expected = arrays["replay/obs"].copy()
    jax.block_until_ready(jax.jit(lambda t: t * 0.0, donate_argnums=0)(rounds[0]["replay"]["obs"]))
    np.testing.assert_array_equal(arrays["replay/obs"], expected)


def test_copies_restore_the_rounds(rounds, sharding):
    template = jax.eval_shape(lambda: tree([0, 0], sharding))
    restored = host_arrays.to_devices(to_host(rounds), template, 2, sharding)
    assert jax.tree.structure(restored) == jax.tree.structure(rounds)
    for name, values in to_host(rounds).items():
        np.testing.assert_array_equal(to_host(restored)[name], values)
    assert jax.random.uniform(restored[1]["key"][0]) == jax.random.uniform(rounds[1]["key"][0])


@pytest.mark.parametrize("limit", [0, 3])
def test_missing_replay_entries_are_zeros(limit, rounds, sharding):
    template = jax.eval_shape(lambda: tree([0, 0], sharding))
    arrays = to_host(rounds, {"replay/": limit})
    assert ("replay/obs" in arrays) == bool(limit)
    restored = to_host(host_arrays.to_devices(arrays, template, 2, sharding))["replay/obs"]
    np.testing.assert_array_equal(restored[:, :limit], to_host(rounds)["replay/obs"][:, :limit])
    assert not restored[:, limit:].any()


def test_selected_members_are_unchanged(rounds, sharding):
    template = jax.eval_shape(lambda: tree([0, 0], sharding))
    (selected,) = host_arrays.select_members(rounds, [2], template, 1, sharding)
    arrays = host_arrays.to_host((selected,), 1, {})
    for name, values in to_host(rounds).items():
        np.testing.assert_array_equal(arrays[name][0], values[2])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("replay/obs", np.zeros((3, 5, 2), np.float32)),
        ("replay/obs", np.zeros((3, 4, 3), np.float32)),
        ("scalar", np.zeros(3, np.float32)),
        ("unknown", np.zeros(3, np.float32)),
    ],
)
def test_arrays_of_another_program_are_refused_by_name(name, values, rounds, sharding):
    template = jax.eval_shape(lambda: tree([0, 0], sharding))
    with pytest.raises(ValueError, match=name):
        host_arrays.to_devices({**to_host(rounds), name: values}, template, 2, sharding)
