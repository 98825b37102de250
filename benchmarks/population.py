"""Total speed of P members, and its efficiency relative to P separate members."""

import os
import time

from benchmarks import cases, measure
from qmix_jax import config, memory, population, program
from qmix_jax.machine import devices

SIZES = (1, 2, 4, 8)


def run(options: measure.Options) -> None:
    """Prints the total env steps/s for P = 1, 2, 4, 8; `seeds=...` selects one P."""
    seeds = [int(o.partition("=")[2]) for o in options.overrides if o.startswith("seeds=")]
    sizes = seeds or ((2,) if options.smoke else SIZES)
    devices.prepare(max(sizes), None)
    rows = []
    for name, overrides in cases.named(options.overrides, options.smoke).items():
        case = [_row(name, cases.load((*overrides, f"seeds={p}")), options) for p in sizes]
        speed = case[0]["env steps/s"]
        rows += [{**row, "efficiency": row["env steps/s"] / speed} for row in case]
    notes = [
        f"efficiency: total speed over that of {sizes[0]} member(s); {os.cpu_count()} cores",
        "after the warm-up, without evaluation",
    ]
    measure.report("population", rows, options, notes)


def _row(case: str, cfg: config.ExperimentConfig, options: measure.Options) -> measure.Row:
    built = program.build(cfg)
    used = devices.local(cfg.seeds, cfg.population.devices)
    layout = population.make_layout(cfg.seeds, used, cfg.population.batching)
    seeds = list(range(cfg.seeds))
    hparams = [program.hparams(cfg.hparams)] * cfg.seeds
    started = time.perf_counter()
    members = population.compile_programs(
        built, layout, seeds, hparams, cfg.precision, time.perf_counter
    )
    compile_s = time.perf_counter() - started
    warm_up, n = built.plan.warm_up_collects, 2 if options.smoke else 10
    states = [members.train(members.init(), members.empty_tallies(), -warm_up, warm_up)]
    update = [0]

    def call() -> None:
        states.append(members.train(*states.pop(), update[0], n))
        members.metrics(states[0][1])
        update[0] += n

    timing = measure.interleaved({"train": call}, options.repeats)["train"]
    steps = n * built.plan.steps_per_update * cfg.seeds
    return {
        "case": case,
        "P": cfg.seeds,
        "devices": len(layout.devices),
        "batching": layout.batching,
        "env steps/s": steps / timing.median,
        "iqr": steps / timing.median * timing.iqr / timing.median,
        "gradient steps/s": n * built.plan.gradient_steps * cfg.seeds / timing.median,
        "compile s": compile_s,
        "state MB per member": sum(map(memory.tree_bytes, states[0])) / 1e6 / cfg.seeds,
        "peak MB": measure.peak_bytes() / 1e6,
        "repeats": options.repeats,
    }
