"""The whole train step, and the share of its phases: rollout, replay, gradient steps.

Each phase runs in a compiled loop of its own on the state that the whole program reached, so the
phases need not add up to the whole.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import cases, measure
from qmix_jax import program, train_step
from qmix_jax.types import Array


def run(options: measure.Options) -> None:
    """Prints env steps/s and gradient steps/s, and milliseconds per update of every phase."""
    named = cases.named(options.overrides, options.smoke)
    gemm = measure.gemm_rate(256 if options.smoke else 2048)
    rows = [_row(name, overrides, gemm, options) for name, overrides in named.items()]
    notes = [
        "GFLOP: matrix products of an update's gradient steps, and their share of this machine's"
    ]
    notes += ["one member on one device; learning only, after the warm-up; evaluation is apart"]
    measure.report("train", rows, options, notes)


class _Loops(NamedTuple):
    """Compiled loops of `n` rounds; each round does one update's share of its phase."""

    n: int
    whole: measure.Compiled
    phases: dict[str, measure.Compiled]
    gradient_flops: float


def _row(
    name: str, overrides: tuple[str, ...], gemm: float, options: measure.Options
) -> measure.Row:
    cfg = cases.load(overrides)
    built = program.build(cfg)
    loops = _loops(built, program.hparams(cfg.hparams), 2 if options.smoke else 10)
    calls = {"whole": loops.whole.call, **{k: v.call for k, v in loops.phases.items()}}
    timings = measure.interleaved(calls, options.repeats)
    seconds = timings["whole"].median / loops.n
    plan = built.plan
    return {
        "case": name,
        "envs x steps": f"{cfg.trainer.n_envs} x {plan.window}",
        "K": plan.gradient_steps,
        "env steps/s": plan.steps_per_update / seconds,
        "gradient steps/s": plan.gradient_steps / seconds,
        "update ms": 1e3 * seconds,
        "iqr ms": 1e3 * timings["whole"].iqr / loops.n,
        **{f"{k} ms": 1e3 * timings[k].median / loops.n for k in loops.phases},
        "GFLOP": loops.gradient_flops / 1e9,
        "share of matmul rate": (
            loops.gradient_flops * loops.n / timings["gradient"].median / gemm
        ),
        "lower s": loops.whole.lower_s,
        "compile s": loops.whole.compile_s,
        "temp MB": loops.whole.temp_bytes / 1e6,
        "peak MB": measure.peak_bytes() / 1e6,
        "repeats": options.repeats,
    }


def _loops(built: program.Program, hparams: Any, n: int) -> _Loops:
    """Warms up (so that the replay holds data), then compiles every loop on the state reached."""
    step = built.step
    warm_up = built.plan.warm_up_collects
    state = jax.jit(step.init)(jnp.int32(0))
    loop = train_step.Loop(step.update)
    tally = loop.empty_tally(state, hparams)
    span = (jnp.int32(-warm_up), jnp.int32(warm_up))
    cold = measure.compile_call(loop.train, state, tally, hparams, *span, keeps=True)
    state, tally = cold.call()
    clock = step.timeline.clock(jnp.int32(0))
    behaviour = cases.late_policy(step.algorithm, state.learner.params, hparams)

    def collect(key: Array, actor: Any) -> Any:
        return step.collector.collect(key, actor, behaviour)

    trajectory = jax.jit(collect)(state.key, state.actor)[1]
    batch = step.buffer.sample(state.replay, state.key, clock)

    def rollout(_: Array, key: Array, actor: Any) -> Any:
        actor, made, _ = collect(key, actor)
        return actor, measure.consume(made)

    def replay(_: Array, key: Array, ring: Any) -> Any:
        ring = step.buffer.add(ring, trajectory, clock)

        def draw(k: Array, total: Array) -> Array:
            drawn = step.buffer.sample(ring, jax.random.fold_in(key, k), clock)
            return total + measure.consume(drawn.trajectory)

        return ring, jax.lax.fori_loop(0, built.plan.gradient_steps, draw, jnp.float32(0))

    def update(index: Array, key: Array, learner: Any) -> Any:
        def one(k: Array, learner: Any) -> Any:
            # The true step: were it known to the compiler that no target copy falls due, it would
            # compute the target networks' values once for all rounds.
            now = replace(clock, gradient_step=index * built.plan.gradient_steps + k)
            key_loss = jax.random.fold_in(key, k)
            return step.algorithm.learner.update(learner, batch, hparams, now, key_loss)[0]

        return jax.lax.fori_loop(0, built.plan.gradient_steps, one, learner), jnp.float32(0)

    phases = {
        "rollout": measure.compile_call(_repeat(rollout, n), state.actor, state.key, keeps=True),
        "replay": measure.compile_call(_repeat(replay, n), state.replay, state.key, keeps=True),
        "gradient": measure.compile_call(_repeat(update, n), state.learner, state.key, keeps=True),
    }
    numbers = (state, tally, hparams, jnp.int32(0), jnp.int32(n))
    again = measure.compile_call(loop.train, *numbers, keeps=True)  # the same, on the warm state
    one = (state.learner, batch, hparams, clock, state.key)
    flops = measure.matmul_flops(step.algorithm.learner.update, *one)
    return _Loops(n, cold._replace(call=again.call), phases, built.plan.gradient_steps * flops)


def _repeat(body: Callable[[Array, Array, Any], tuple[Any, Array]], n: int) -> Callable:
    """`n` rounds of `(index, key, state) -> (state, number)` in one program."""

    def loop(state: Any, key: Array) -> Any:
        def one(i: Array, carried: Any) -> Any:
            state, total = carried
            state, number = body(i, jax.random.fold_in(key, i), state)
            return state, total + number

        return jax.lax.fori_loop(0, n, one, (state, jnp.float32(0)))

    return loop
