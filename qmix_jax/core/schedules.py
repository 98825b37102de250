"""Values of schedules."""

import jax.numpy as jnp

from qmix_jax.types import Array, Exponential, Power, Schedule


def value(schedule: Schedule | Exponential | Power | Array, step: Array) -> Array:
    """Returns the value of a schedule at a step; a plain number is constant.

    Args:
      schedule: scalars f32[].
      step: i32[] or f32[], in the schedule's unit (env steps or gradient steps).
    Returns:
      f32[].
    """
    if isinstance(schedule, Exponential):
        return exponential(schedule, step)
    if isinstance(schedule, Power):
        return power(schedule, step)
    return linear(schedule, step) if isinstance(schedule, Schedule) else schedule


def linear(schedule: Schedule, step: Array) -> Array:
    """Linear from `start` at step 0 to `end` at `schedule.steps`, then constant; see `value`."""
    fraction = jnp.clip(step / schedule.steps, 0.0, 1.0)
    return schedule.start + fraction * (schedule.end - schedule.start)


def exponential(schedule: Exponential, step: Array) -> Array:
    """`start * (end / start) ** (step / steps)`, constant from `steps` on; see `value`."""
    fraction = jnp.clip(step / schedule.steps, 0.0, 1.0)
    return schedule.start * (schedule.end / schedule.start) ** fraction


def power(schedule: Power, step: Array) -> Array:
    """`start * (1 + step / scale) ** -exponent`; see `value`."""
    return schedule.start * (1.0 + step / schedule.scale) ** -schedule.exponent
