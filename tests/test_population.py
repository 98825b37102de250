"""Results do not depend on devices, batching, chunk length or other members."""

import functools

import jax
import numpy as np
import pytest
from toys import members
from toys.comparison import assert_equal

from qmix_jax import population, program

pytestmark = pytest.mark.as_users
slow = pytest.mark.slow

UPDATES = 9


def member(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


load = functools.partial(members.load, trainer={"collector": "window", "window": 3, "burn_in": 2})
"""Recurrent QMIX on windows; `test_train_many.py` has complete runs of VDN on segments."""


@pytest.fixture(scope="module", autouse=True)
def _default_compile_effort():
    """Bitwise comparisons use the default compile options."""
    options = dict(population.compiler_options("cpu"))
    if jax.__version_info__ < (0, 11):
        options["xla_cpu_use_fusion_emitters"] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population, "compiler_options", lambda platform: options)
        yield


@pytest.fixture(scope="module")
def three():
    return members.train(load(seeds=3), calls=(UPDATES,))


def test_layout_assigns_every_member_once():
    devices = jax.devices()
    for n_members in (1, 2, 3, 5, 8):
        for batching in ("map", "vmap", "auto"):
            places = population.make_layout(n_members, devices, batching)
            assert places.rounds * places.size == n_members + places.padding
            assert len(places.devices) == min(n_members, 2)
            assert 0 <= places.padding < places.size
    assert population.make_layout(4, devices, "auto").batching == "map", "a CPU"
    assert population.make_layout(4, devices, "vmap").rounds == 1


@slow
def test_a_member_is_bitwise_equal_alone_and_in_a_population(three):
    for i in range(3):
        alone = members.train(load(seed=i, seeds=1), calls=(UPDATES,))
        assert_equal(member(alone.parameters, 0), member(three.parameters, i))
        for name, values in alone.evaluation.items():
            np.testing.assert_array_equal(values[0], three.evaluation[name][i])
        for name, (total, count) in alone.metrics.totals.items():
            expected_total, expected_count = three.metrics.totals[name]
            assert (total[0], count[0]) == (expected_total[i], expected_count[i]), name


@slow
def test_the_number_of_devices_does_not_change_results(three):
    one_device = members.train(load(seeds=3, population={"devices": 1}), calls=(UPDATES,))
    assert_equal(one_device.parameters, three.parameters)


@slow
@pytest.mark.parametrize("calls", [(1,) * UPDATES, (4, 5), (2, 1, 6)])
def test_chunk_length_does_not_change_results(three, calls):
    split = members.train(load(seeds=3), calls=calls)
    assert_equal(split.states, three.states)
    assert_equal(split.metrics.totals, three.metrics.totals)


@slow
def test_different_seeds_differ(three):
    kernel = max(members.leaves(three.parameters["agent"]), key=np.size)
    assert not np.array_equal(kernel[0], kernel[1])
    returns = three.metrics.totals["rollout/return"][0]
    assert len(set(returns)) == 3


@slow
def test_training_is_bitwise_reproducible(three):
    assert_equal(members.train(load(seeds=3), calls=(UPDATES,)).states, three.states)


@pytest.mark.timeout(120)
def test_initialising_many_members_at_once_does_not_hang():
    """Batched QR of orthogonal initialisers hangs jaxlib 0.10 on two cores; ours avoid it."""
    init = program.build(members.load()).step.init
    jax.block_until_ready(jax.jit(jax.vmap(init))(np.arange(8)).learner)
