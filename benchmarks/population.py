"""Total speed of P members, and the efficiency against P runs of one member."""

import os
import time

from benchmarks import cases, measure
from qmix_jax import config, memory, population, program
from qmix_jax.machine import devices

SIZES = (1, 2, 4, 8)


def run(options: measure.Options) -> None:
    """Prints env steps/s of all members together, for P = 1, 2, 4, 8; `seeds=...` sets one P."""
    asked = [int(o.partition("=")[2]) for o in options.overrides if o.startswith("seeds=")]
    sizes = asked or ((2,) if options.smoke else SIZES)
    devices.prepare(max(sizes), None)
    rows = []
    for name, overrides in cases.named(options.overrides, options.smoke).items():
        found: list[measure.Row] = []
        for members in sizes:
            found.append(_row(name, cases.load((*overrides, f"seeds={members}")), options))
            found[-1]["efficiency"] = found[-1]["env steps/s"] / found[0]["env steps/s"]
        rows += found
    notes = [
        f"efficiency: total speed over that of {sizes[0]} member(s); {os.cpu_count()} cores",
        "learning only, after the warm-up; evaluation is apart",
    ]
    measure.report("population", rows, options, notes)


def _row(case: str, cfg: config.ExperimentConfig, options: measure.Options) -> measure.Row:
    built = program.build(cfg)
    used = devices.local(cfg.seeds, cfg.population.devices)
    places = population.make_layout(cfg.seeds, used, cfg.population.batching)
    seeds = list(range(cfg.seeds))
    numbers = [program.hparams(cfg.hparams)] * cfg.seeds
    started = time.perf_counter()
    members = population.compile_programs(
        built, places, seeds, numbers, cfg.precision, time.perf_counter
    )
    compile_s = time.perf_counter() - started
    warm_up, n = built.plan.warm_up_collects, 2 if options.smoke else 10
    held = [members.train(members.init(), members.empty_tallies(), -warm_up, warm_up)]
    clock = [0]

    def call() -> None:
        held.append(members.train(*held.pop(), clock[0], n))
        members.metrics(held[0][1])
        clock[0] += n

    timing = measure.interleaved({"train": call}, options.repeats)["train"]
    steps = n * built.plan.steps_per_update * cfg.seeds
    return {
        "case": case,
        "P": cfg.seeds,
        "devices": len(places.devices),
        "batching": places.batching,
        "env steps/s": steps / timing.median,
        "iqr": steps / timing.median * timing.iqr / timing.median,
        "gradient steps/s": n * built.plan.gradient_steps * cfg.seeds / timing.median,
        "compile s": compile_s,
        "state MB per member": sum(map(memory.tree_bytes, held[0])) / 1e6 / cfg.seeds,
        "peak MB": measure.peak_bytes() / 1e6,
        "repeats": options.repeats,
    }
