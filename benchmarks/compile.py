"""Seconds from an idle process to a compiled program: cold, and with the persistent cache warm.

Every start is a process of its own; imports are not counted.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from benchmarks import cases, measure

_SCRIPT = """
import json, sys, time
import jax
import jax.numpy as jnp
from benchmarks import cases
from qmix_jax import population, program, train_step
from qmix_jax.machine import compile_cache
compile_cache.enable()
options = population.compiler_options(jax.default_backend())
cfg = cases.load(json.loads(sys.argv[1]))
built = program.build(cfg)
numbers = program.hparams(cfg.hparams)
state = jax.jit(built.step.init)(jnp.int32(0))
loop = train_step.Loop(built.step.update)
tally = jax.block_until_ready(loop.empty_tally(state, numbers))
seconds = {}
started = time.perf_counter()
lowered = jax.jit(loop.train, donate_argnums=(0, 1)).lower(
    state, tally, numbers, jnp.int32(0), jnp.int32(1))
seconds["lower s"] = time.perf_counter() - started
compiled = lowered.compile(options)
seconds["compile s"] = time.perf_counter() - started - seconds["lower s"]
jax.block_until_ready(compiled(state, tally, numbers, jnp.int32(0), jnp.int32(1)))
seconds["to first result s"] = time.perf_counter() - started
evaluate = time.perf_counter()
state = jax.eval_shape(built.step.init, 0)
jax.jit(built.evaluate).lower(state.key, state.learner.params, jnp.int32(0)).compile(options)
seconds["evaluate, lower and compile s"] = time.perf_counter() - evaluate
print(json.dumps(seconds))
"""


def run(options: measure.Options) -> None:
    """Prints seconds of the training chunk (SMAX 3m at the defaults, unless overridden)."""
    overrides = options.overrides
    if options.smoke:
        overrides = (*cases.SMOKE, *overrides)
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"case": start, **_start(overrides, folder)} for start in ("cold", "second")]
    measure.report("compile", rows, options, ["to first result: lower, compile and one update"])


def _start(overrides: Sequence[str], folder: str) -> measure.Row:
    """One process; `folder` holds the persistent cache."""
    environ = {**os.environ, "JAX_COMPILATION_CACHE_DIR": folder}
    environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    command = [sys.executable, "-c", _SCRIPT, json.dumps(list(overrides))]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"compile: a start failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])
