"""Values of schedules."""

import jax.numpy as jnp
import numpy as np
import pytest

from qmix_jax import config, program
from qmix_jax.core import schedules
from qmix_jax.types import Exponential, Power, Schedule


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


def test_exponential_by_hand():
    """From 1 to 0.01 in ten steps: half-way it is 0.1, then it stays at 0.01."""
    schedule = Exponential(start=jnp.float32(1.0), end=jnp.float32(0.01), steps=jnp.float32(10.0))
    values = [float(schedules.value(schedule, jnp.float32(t))) for t in (0, 5, 10, 99)]
    np.testing.assert_allclose(values, [1.0, 0.1, 0.01, 0.01], rtol=1e-5)


def test_power_by_hand():
    """1 / (100 + t / 10_000) is 0.01 (1 + t / 1e6)^-1."""
    schedule = Power(start=jnp.float32(0.01), scale=jnp.float32(1e6), exponent=jnp.float32(1.0))
    for t in (0.0, 1e6, 7e6):
        expected = 1.0 / (100.0 + t / 10_000.0)
        np.testing.assert_allclose(schedules.value(schedule, jnp.float32(t)), expected, rtol=1e-5)


def test_a_plain_number_is_constant_and_a_linear_schedule_is_linear():
    half = Schedule(start=jnp.float32(1.0), end=jnp.float32(0.0), steps=jnp.float32(4.0))
    assert float(schedules.value(jnp.float32(0.3), jnp.float32(9))) == np.float32(0.3)
    assert float(schedules.value(half, jnp.float32(2))) == 0.5


def test_coefficients_may_be_schedules():
    class Coefficients(config.Model):
        rate: config.ExponentialConfig = config.ExponentialConfig(start=1.0, end=0.1, steps=10.0)
        decay: config.PowerConfig = config.PowerConfig(start=0.5, scale=2.0, exponent=1.0)
        plain: float = 0.25

    algo = program.hparams(config.HParamsConfig(algo=Coefficients())).algo
    values = {name: float(schedules.value(x, jnp.float32(10))) for name, x in algo.items()}
    assert values == pytest.approx({"rate": 0.1, "decay": 0.5 / 6.0, "plain": 0.25}, rel=1e-5)
