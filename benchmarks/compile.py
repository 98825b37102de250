"""Seconds from a new process to a compiled program: cold, and with a warm persistent cache.

Every start is a separate process; imports are not counted.
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
hparams = program.hparams(cfg.hparams)
state = jax.jit(built.step.init)(jnp.int32(0))
loop = train_step.Loop(built.step.update)
tally = jax.block_until_ready(loop.empty_tally(state, hparams))
seconds = {}
started = time.perf_counter()
lowered = jax.jit(loop.train, donate_argnums=(0, 1)).lower(
    state, tally, hparams, jnp.int32(0), jnp.int32(1))
seconds["lower s"] = time.perf_counter() - started
compiled = lowered.compile(options)
seconds["compile s"] = time.perf_counter() - started - seconds["lower s"]
jax.block_until_ready(compiled(state, tally, hparams, jnp.int32(0), jnp.int32(1)))
seconds["to first result s"] = time.perf_counter() - started
evaluate = time.perf_counter()
state = jax.eval_shape(built.step.init, 0)
jax.jit(built.evaluate).lower(state.key, state.learner.params, jnp.int32(0)).compile(options)
seconds["evaluate, lower and compile s"] = time.perf_counter() - evaluate
print(json.dumps(seconds))
"""


def run(options: measure.Options) -> None:
    """Prints seconds to compile training (SMAX 3m with defaults, unless overridden)."""
    overrides = options.overrides
    if options.smoke:
        overrides = (*cases.SMOKE, *overrides)
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"case": start, **_start(overrides, folder)} for start in ("cold", "second")]
    measure.report("compile", rows, options, ["to first result: lower, compile and one update"])


def _start(overrides: Sequence[str], folder: str) -> measure.Row:
    """Runs one process; `folder` holds the persistent cache."""
    environ = {**os.environ, "JAX_COMPILATION_CACHE_DIR": folder}
    environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    command = [sys.executable, "-c", _SCRIPT, json.dumps(list(overrides))]
    process = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"compile: a start failed: {process.stderr.strip().splitlines()[-1]}")
    return json.loads(process.stdout.splitlines()[-1])
