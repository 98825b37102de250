"""Value of a schedule at a step."""

import jax.numpy as jnp

from qmix_jax.types import Array, Schedule


def linear(schedule: Schedule, step: Array) -> Array:
    """`start` at step 0, `end` from `schedule.steps` on, linear between.

    Args:
      schedule: scalars f32[].
      step: i32[] or f32[], in the schedule's own unit (env steps or gradient steps).
    Returns:
      f32[].
    """
    fraction = jnp.clip(step / schedule.steps, 0.0, 1.0)
    return schedule.start + fraction * (schedule.end - schedule.start)
