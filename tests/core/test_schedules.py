"""Values of schedules."""

import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax.core import schedules
from qmix_jax.types import Schedule


def _schedule(start, end, steps):
    return Schedule(start=jnp.float32(start), end=jnp.float32(end), steps=jnp.float32(steps))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32])
@pytest.mark.parametrize(
    ("step", "value"), [(0, 1.0), (12_500, 0.7625), (25_000, 0.525), (50_000, 0.05)]
)
def test_by_hand(run, step, value, dtype):
    epsilon = run(schedules.linear)(_schedule(1.0, 0.05, 50_000), jnp.asarray(step, dtype))
    np.testing.assert_allclose(epsilon, value, rtol=1e-5)
    assert epsilon.dtype == jnp.float32


def test_constant_outside_its_range(run):
    linear = run(schedules.linear)
    schedule = _schedule(0.2, 0.8, 10)
    np.testing.assert_allclose(linear(schedule, jnp.int32(-3)), 0.2, rtol=1e-6)
    np.testing.assert_allclose(linear(schedule, jnp.float32(3e9)), 0.8, rtol=1e-6)


def test_equal_ends_are_constant(run):
    for step in (0, 1, 1000):
        assert float(run(schedules.linear)(_schedule(0.25, 0.25, 1), jnp.int32(step))) == 0.25
