"""One gradient update of every algorithm on the same batch, relative to QMIX."""

from collections.abc import Callable
from typing import Any

import jax

from benchmarks import cases, measure
from qmix_jax import config, memory, program
from qmix_jax.cli import composition
from qmix_jax.types import Batch, EnvSpec


def run(options: measure.Options) -> None:
    """Prints milliseconds per update, the ratio to QMIX, and parameters of every algorithm."""
    base = cases.SMOKE if options.smoke else ("experiment=smax_3m",)
    names = [name for name in composition.choices()["algo"] if name != "custom"]
    selected = ("qmix", "vdn") if options.smoke else sorted(names, key=lambda name: name != "qmix")
    updates = {
        name: _update(name, cases.load((*base, f"algo={name}", *options.overrides)))
        for name in selected
    }
    calls = {name: call for name, (call, _) in updates.items()}
    timings = measure.interleaved(calls, options.repeats)
    rows = [
        row
        | {
            "update ms": 1e3 * timings[name].median,
            "iqr ms": 1e3 * timings[name].iqr,
            "to qmix": timings[name].median / timings["qmix"].median,
            "repeats": timings[name].repeats,
        }
        for name, (_, row) in updates.items()
    ]
    notes = ["random sequences; without sampling, collection and evaluation"]
    measure.report("family", rows, options, notes)


def _update(name: str, cfg: config.ExperimentConfig) -> tuple[Callable[[], Any], measure.Row]:
    spec = program.environment(cfg).spec
    batch = _batch(cfg, spec)
    algorithm = program.make_algorithm(cfg, spec)
    state = algorithm.learner.init(algorithm.init(jax.random.key(0)))
    args = (batch, program.hparams(cfg.hparams), cases.clock(0), jax.random.key(1))
    compiled = measure.compile_call(algorithm.learner.update, state, *args, carries=True)
    steps, sequences = batch.trajectory.reward.shape
    return compiled.call, {
        "case": name,
        "T": steps,
        "B": sequences,
        "parameters": memory.tree_bytes(state.params) // 4,
        "compile s": compiled.compile_s,
    }


def _batch(cfg: config.ExperimentConfig, spec: EnvSpec) -> Batch:
    sizes = cases.Sizes(
        T=cfg.trainer.window or spec.max_steps,
        B=cfg.replay.batch_size,
        N=spec.n_agents,
        O=spec.obs_shape[0],
        S=spec.state_size,
        A=spec.actions.width,
    )
    return cases.random_batch(sizes)
