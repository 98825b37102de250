"""Members on devices and their copies on the host."""

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


def tree(numbers, sharding):
    """One round: a scalar, a ring of four entries, and a key for each of its members."""
    made = {
        "scalar": jnp.asarray(numbers, jnp.int32),
        "replay": {
            "obs": jnp.arange(8.0).reshape(1, 4, 2) + 100.0 * jnp.asarray(numbers)[:, None, None]
        },
        "key": jnp.stack([jax.random.key(number) for number in numbers]),
    }
    return jax.device_put(made, sharding)


@pytest.fixture
def rounds(sharding):
    """Three members in two rounds; the fourth place repeats the last one."""
    return tree([1, 2], sharding), tree([3, 3], sharding)


def host(rounds, entries=None):
    return host_arrays.to_host(rounds, 3, entries or {})


def test_copies_have_one_member_axis_and_no_padding(rounds):
    found = host(rounds)
    assert found["scalar"].tolist() == [1, 2, 3]
    assert found["replay/obs"].shape == (3, 4, 2) and found["replay/obs"][2, 1, 0] == 302.0
    np.testing.assert_array_equal(found["key"][1], jax.random.key_data(jax.random.key(2)))


def test_copies_do_not_follow_the_device(rounds):
    found = host(rounds)
    before = found["replay/obs"].copy()
    jax.block_until_ready(jax.jit(lambda t: t * 0.0, donate_argnums=0)(rounds[0]["replay"]["obs"]))
    np.testing.assert_array_equal(found["replay/obs"], before)


def test_back_on_devices_they_are_what_they_were(rounds, sharding):
    template = jax.eval_shape(lambda: tree([0, 0], sharding))
    again = host_arrays.to_devices(host(rounds), template, 2, sharding)
    assert jax.tree.structure(again) == jax.tree.structure(rounds)
    for name, values in host(rounds).items():
        np.testing.assert_array_equal(host(again)[name], values)
    assert jax.random.uniform(again[1]["key"][0]) == jax.random.uniform(rounds[1]["key"][0])


@pytest.mark.parametrize("limit", [0, 3])
def test_a_part_of_the_replay_ends_in_zeros(limit, rounds, sharding):
    template = jax.eval_shape(lambda: tree([0, 0], sharding))
    found = host(rounds, {"replay/": limit})
    assert ("replay/obs" in found) == bool(limit)
    again = host(host_arrays.to_devices(found, template, 2, sharding))["replay/obs"]
    np.testing.assert_array_equal(again[:, :limit], host(rounds)["replay/obs"][:, :limit])
    assert not again[:, limit:].any()


def test_some_members_go_on_in_rounds_of_their_own(rounds, sharding):
    template = jax.eval_shape(lambda: tree([0, 0], sharding))
    (kept,) = host_arrays.adopt(rounds, [2], template, 1, sharding)
    found = host_arrays.to_host((kept,), 1, {})
    for name, values in host(rounds).items():
        np.testing.assert_array_equal(found[name][0], values[2])


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
        host_arrays.to_devices({**host(rounds), name: values}, template, 2, sharding)
