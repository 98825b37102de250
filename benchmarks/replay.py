"""Time to add and sample, at a capacity and at four times it, for every storage type of floats.

If the time grows with the capacity, the ring is copied.
"""

import dataclasses
from typing import Any, get_args

import jax
import jax.numpy as jnp

from benchmarks import cases, measure
from qmix_jax import config, train_step
from qmix_jax import replay as rings
from qmix_jax.types import Array, EnvSpec

ADDED, SAMPLED = 16, 32


def run(options: measure.Options) -> None:
    """Prints milliseconds for one add and one sample together, and megabytes of the ring."""
    sizes = cases.Sizes(B=ADDED)
    capacity = 160
    if options.smoke:
        sizes, capacity = cases.Sizes(T=5, B=ADDED, N=2, O=4, S=4), 32
    spec = dataclasses.replace(sizes.spec(), obs_bounds=(-4.0, 4.0), state_bounds=(-4.0, 4.0))
    rows = [
        _row(spec, sizes, rings.StorageDtypes(dtype, dtype), factor * capacity, options)
        for dtype in get_args(config.StorageDtype)
        for factor in (1, 4)
    ]
    notes = [f"add {ADDED} sequences of {sizes.T} steps, sample {SAMPLED}; the state is donated"]
    measure.report("replay", rows, options, notes)


def _row(
    spec: EnvSpec,
    sizes: cases.Sizes,
    dtypes: rings.StorageDtypes,
    capacity: int,
    options: measure.Options,
) -> measure.Row:
    shapes = rings.sequence_shapes(spec, rings.StoredFields(length=sizes.T), dtypes)
    buffer = rings.make_uniform(rings.Ring(spec, shapes, dtypes, capacity), SAMPLED)
    trajectory = cases.random_batch(sizes).trajectory
    timeline = train_step.Timeline(n_envs=ADDED, window=sizes.T, gradient_steps=1, warm_up=0)
    n = 4 if options.smoke else 50

    def loop(state: Any, key: Array) -> Any:
        def body(i: Array, carried: Any) -> Any:
            state, total = carried
            state = buffer.add(state, trajectory, timeline.clock(i + 10))
            batch = buffer.sample(state, jax.random.fold_in(key, i), timeline.clock(i + 11))
            return state, total + measure.consume(batch.trajectory)

        return jax.lax.fori_loop(0, n, body, (state, jnp.float32(0)))

    program = measure.compile_call(loop, buffer.init(), jax.random.key(0), carries=True)
    timing = measure.interleaved({"both": program.call}, options.repeats)["both"]
    return {
        "case": dtypes.obs,
        "capacity": capacity,
        "ring MB": capacity * rings.sequence_bytes(shapes) / 1e6,
        "add + sample ms": 1e3 * timing.median / n,
        "iqr ms": 1e3 * timing.iqr / n,
        "temp MB": program.temp_bytes / 1e6,
        "repeats": options.repeats,
    }
