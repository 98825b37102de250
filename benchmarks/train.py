"""Speed of the train step, and the shares of its phases: rollout, replay, gradient steps.

Each phase is timed in a separate compiled loop on the state after the warm-up, so the phases need
not add up to the train step.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import cases, measure
from qmix_jax import program, train_step
from qmix_jax.types import Array, Batch, Clock


def run(options: measure.Options) -> None:
    """Prints env steps/s and gradient steps/s, and milliseconds per update of every phase."""
    named = cases.named(options.overrides, options.smoke)
    gemm = measure.gemm_rate(256 if options.smoke else 2048)
    rows = [_row(name, overrides, gemm, options) for name, overrides in named.items()]
    notes = [
        "GFLOP: matrix products of an update's gradient steps; their share of this machine's rate",
        "one member on one device, after the warm-up, without evaluation",
    ]
    measure.report("train", rows, options, notes)


class _Loops(NamedTuple):
    """Compiled loops of `n` iterations, of an update and of its phases."""

    n: int
    update: measure.Compiled
    phases: dict[str, measure.Compiled]
    gradient_flops: float


def _row(
    name: str, overrides: tuple[str, ...], gemm: float, options: measure.Options
) -> measure.Row:
    cfg = cases.load(overrides)
    built = program.build(cfg)
    loops = _loops(built, program.hparams(cfg.hparams), 2 if options.smoke else 10)
    calls = {"update": loops.update.call, **{k: v.call for k, v in loops.phases.items()}}
    timings = measure.interleaved(calls, options.repeats)
    seconds = timings["update"].median / loops.n
    plan = built.plan
    return {
        "case": name,
        "envs x steps": f"{cfg.trainer.n_envs} x {plan.window}",
        "K": plan.gradient_steps,
        "env steps/s": plan.steps_per_update / seconds,
        "gradient steps/s": plan.gradient_steps / seconds,
        "update ms": 1e3 * seconds,
        "iqr ms": 1e3 * timings["update"].iqr / loops.n,
        **{f"{k} ms": 1e3 * timings[k].median / loops.n for k in loops.phases},
        "GFLOP": loops.gradient_flops / 1e9,
        "share of matmul rate": (
            loops.gradient_flops * loops.n / timings["gradient"].median / gemm
        ),
        "lower s": loops.update.lower_s,
        "compile s": loops.update.compile_s,
        "temp MB": loops.update.temp_bytes / 1e6,
        "peak MB": measure.peak_bytes() / 1e6,
        "repeats": options.repeats,
    }


def _loops(built: program.Program, hparams: Any, n: int) -> _Loops:
    """Warms up, which fills the replay, then compiles every loop on the resulting state."""
    step, n_steps, warm_up = built.step, built.plan.gradient_steps, built.plan.warm_up_collects
    state = jax.jit(step.init)(jnp.int32(0))
    loop = train_step.Loop(step.update)
    tally = loop.empty_tally(state, hparams)
    span = (jnp.int32(-warm_up), jnp.int32(warm_up))
    cold = measure.compile_call(loop.train, state, tally, hparams, *span, carries=True)
    state, tally = cold.call()
    clock = step.timeline.clock(jnp.int32(0))
    policy = cases.late_policy(step.algorithm, state.learner.params, hparams)

    def collect(key: Array, actor: Any) -> Any:
        return step.collector.collect(key, actor, policy)

    trajectory = jax.jit(collect)(state.key, state.actor)[1]
    batch = step.buffer.sample(state.replay, state.key, clock)

    def rollout(_: Array, key: Array, actor: Any) -> Any:
        actor, trajectory, _ = collect(key, actor)
        return actor, measure.consume(trajectory)

    def replay(_: Array, key: Array, ring: Any) -> Any:
        ring = step.buffer.add(ring, trajectory, clock)

        def sample(k: Array, total: Array) -> Array:
            sampled = step.buffer.sample(ring, jax.random.fold_in(key, k), clock)
            return total + measure.consume(sampled.trajectory)

        return ring, jax.lax.fori_loop(0, n_steps, sample, jnp.float32(0))

    bodies = {
        "rollout": (rollout, state.actor),
        "replay": (replay, state.replay),
        "gradient": (_gradient(step, batch, hparams, clock), state.learner),
    }
    phases = {
        name: measure.compile_call(_repeat(body, n), start, state.key, carries=True)
        for name, (body, start) in bodies.items()
    }
    args = (state, tally, hparams, jnp.int32(0), jnp.int32(n))
    warm = measure.compile_call(loop.train, *args, carries=True)  # the same, on the warm state
    learner_args = (state.learner, batch, hparams, clock, state.key)
    flops = measure.matmul_flops(step.algorithm.learner.update, *learner_args)
    return _Loops(n, cold._replace(call=warm.call), phases, n_steps * flops)


def _gradient(step: train_step.TrainStep, batch: Batch, hparams: Any, clock: Clock) -> Callable:
    """Returns the gradient steps of an update, `(index, key, learner) -> (learner, 0)`."""
    n_steps = step.timeline.gradient_steps

    def gradient(index: Array, key: Array, learner: Any) -> Any:
        def body(k: Array, learner: Any) -> Any:
            # The true step: if the compiler knew that no target update is due, it would compute
            # the target networks' values once for all iterations.
            now = replace(clock, gradient_step=index * n_steps + k)
            key_loss = jax.random.fold_in(key, k)
            return step.algorithm.learner.update(learner, batch, hparams, now, key_loss)[0]

        return jax.lax.fori_loop(0, n_steps, body, learner), jnp.float32(0)

    return gradient


def _repeat(body: Callable[[Array, Array, Any], tuple[Any, Array]], n: int) -> Callable:
    """Returns a loop of `n` iterations of `(index, key, state) -> (state, number)`."""

    def loop(state: Any, key: Array) -> Any:
        def step(i: Array, carried: Any) -> Any:
            state, total = carried
            state, number = body(i, jax.random.fold_in(key, i), state)
            return state, total + number

        return jax.lax.fori_loop(0, n, step, (state, jnp.float32(0)))

    return loop
