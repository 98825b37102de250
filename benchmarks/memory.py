"""Bytes of one member: parameters, optimiser, replay, and temporaries of the training program."""

import jax
import jax.numpy as jnp

from benchmarks import cases, measure
from qmix_jax import memory, population, program, train_step

STORAGE = {
    "float32": ("float32", "float32"),
    "16 bit": ("float16", "float16"),
    "8 bit": ("uint8", "uint8"),
}


def run(options: measure.Options) -> None:
    """Prints megabytes per member for each storage type of observations and states."""
    rows = []
    for name, overrides in cases.named(options.overrides, options.smoke).items():
        for label, dtypes in STORAGE.items():
            row = _row(f"{name}, {label}", overrides, dtypes)
            rows += [row] if row else []
    notes = ["state: persistent; temporaries: allocated by the training program while it runs"]
    measure.report("memory", rows, options, notes)


def _row(case: str, overrides: tuple[str, ...], dtypes: tuple[str, str]) -> measure.Row | None:
    """Returns None for uint8 if the environment states no bounds."""
    stored = (f"replay.obs_dtype={dtypes[0]}", f"replay.state_dtype={dtypes[1]}")
    cfg = cases.load((*overrides, *stored))
    spec = program.environment(cfg).spec
    if "uint8" in dtypes and (spec.obs_bounds is None or spec.state_bounds is None):
        return None
    built = program.build(cfg)
    hparams = program.hparams(cfg.hparams)
    state = jax.eval_shape(built.step.init, 0)
    loop = train_step.Loop(built.step.update)
    tally = jax.eval_shape(loop.empty_tally, state, hparams)
    train = jax.jit(loop.train, donate_argnums=(0, 1))
    args = (state, tally, hparams, jnp.int32(0), jnp.int32(1))
    options = population.compiler_options(jax.default_backend())
    analysis = train.lower(*args).compile(options).memory_analysis()
    megabyte = 1e6
    return {
        "case": case,
        "sequences": built.plan.capacity,
        "steps each": built.plan.window + built.plan.burn_in,
        "replay MB": memory.tree_bytes(state.replay) / megabyte,
        "bytes per env step": built.plan.sequence_bytes / (built.plan.window),
        "learner MB": memory.tree_bytes(state.learner) / megabyte,
        "state MB": memory.tree_bytes(state) / megabyte,
        "temporaries MB": analysis.temp_size_in_bytes / megabyte,
        "peak MB": measure.peak_bytes() / megabyte,
    }
