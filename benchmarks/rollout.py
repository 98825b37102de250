"""Speed of collection by number of environments, with the agent and with random actions."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import cases, measure
from qmix_jax import program
from qmix_jax import rollout as collection
from qmix_jax.core import exploration
from qmix_jax.types import Array, Observed

WIDTHS = (8, 16, 64, 128)


def run(options: measure.Options) -> None:
    """Prints env steps/s; the benchmark sets `trainer.n_envs`."""
    rows = []
    for name, overrides in cases.named(options.overrides, options.smoke).items():
        for width in (4,) if options.smoke else WIDTHS:
            capacity = f"replay.capacity={width * 8}"
            sized = (*overrides, f"trainer.n_envs={width}", capacity, "replay.batch_size=4")
            rows.append(_row(name, sized, options))
    measure.report("rollout", rows, options, ["one member on one device"])


def _row(name: str, overrides: tuple[str, ...], options: measure.Options) -> measure.Row:
    cfg = cases.load(overrides)
    built = program.build(cfg)
    step, n = built.step, 2 if options.smoke else 10
    state = jax.jit(built.step.init)(jnp.int32(0))
    hparams = program.hparams(cfg.hparams)
    policies = {
        "agent": cases.late_policy(step.algorithm, state.learner.params, hparams),
        "random": collection.BoundPolicy(_random),
    }

    def compile_loop(policy: collection.BoundPolicy) -> measure.Compiled:
        def loop(key: Array, actor: Any) -> Any:
            def body(i: Array, carried: Any) -> Any:
                actor, total = carried
                step_key = jax.random.fold_in(key, i)
                actor, trajectory, _ = step.collector.collect(step_key, actor, policy)
                return actor, total + measure.consume(trajectory)

            return jax.lax.fori_loop(0, n, body, (actor, jnp.float32(0)))

        return measure.compile_call(loop, state.key, state.actor)

    programs = {name: compile_loop(policy) for name, policy in policies.items()}
    timings = measure.interleaved({k: v.call for k, v in programs.items()}, options.repeats)
    steps = n * built.plan.steps_per_update
    return {
        "case": name,
        "environments": cfg.trainer.n_envs,
        "steps": built.plan.window,
        "env steps/s": steps / timings["agent"].median,
        "iqr": steps / timings["agent"].median * timings["agent"].iqr / timings["agent"].median,
        "env steps/s, random": steps / timings["random"].median,
        "us per step of all": 1e6 * timings["agent"].median / (n * built.plan.window),
        "compile s": programs["agent"].compile_s,
        "repeats": options.repeats,
    }


def _random(carry: Any, observed: Observed, key: Array) -> Any:
    return carry, exploration.uniform_available(key, observed.avail_actions), {}
