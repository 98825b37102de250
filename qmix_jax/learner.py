"""Gradient learning for any algorithm: the engine takes losses and owns gradients, optimisers and
target networks.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qmix_jax.core import schedules
from qmix_jax.types import Array, Batch, Clock, HParams, Metrics, Schedule, Trajectory, record

Params = Any
Optimiser = optax.GradientTransformation


@record
class LossAux:
    """What a loss returns besides its value.

    Attributes:
      metrics: name -> (sum f32[], count f32[]).
      priority: f32[B], the sampled sequences' new priorities.
    """

    metrics: Metrics
    priority: Array


@record
class LearnerState:
    """Attributes:
    params: tree, a dict by the names of the networks. `params["statistics"]`, where there is one,
      holds what `prepare` keeps and nothing differentiates.
    target_params: tree, the target copies of some of its parts.
    opt_state: whatever the learner keeps besides.
    """

    params: Params
    target_params: Params
    opt_state: Any


def unprepared(
    state: LearnerState, trajectory: Trajectory, hparams: HParams, clock: Clock, key: Array
) -> tuple[LearnerState, Trajectory]:
    """`Learner.prepare` of learners that store rollouts as they are."""
    del hparams, clock, key
    return state, trajectory


class Learner(NamedTuple):
    """Attributes:
    init: `(params) -> LearnerState`.
    update: `(LearnerState, Batch, HParams, Clock, key) -> (LearnerState, metrics, priority
      f32[B])`, one gradient step; `clock.gradient_step` counts the steps before it. The metrics
      have a `loss`; those whose name ends in `loss` or `grad_norm` are watched: a member in which
      one is not finite is frozen.
    prepare: `(LearnerState, Trajectory, HParams, Clock, key) -> (LearnerState, Trajectory)`, once
      per rollout before it is stored: old values, advantages and targets go into `behaviour`,
      statistics of normalisers into `params["statistics"]`.
    online: `update` is called inside the rollout after every env step, with a one-step trajectory
      and no buffer; environments follow each other in order.
    phases: those of `by_gradient`, to be differentiated or measured alone; empty for others.
    """

    init: Callable[[Params], LearnerState]
    update: Callable[..., tuple[LearnerState, Metrics, Array]]
    prepare: Callable[..., tuple[LearnerState, Trajectory]] = unprepared
    online: bool = False
    phases: "Sequence[Phase]" = ()


class Phase(NamedTuple):
    """Gradient steps on some of the networks.

    Attributes:
      parts: names in `params` that are differentiated and stepped.
      loss: `(params, target_params, Batch, HParams, Clock, k i32[], key) -> (loss f32[], LossAux)`,
        k counting the repeats.
      repeats: steps of this phase in each gradient step.
      learning_rate: `(HParams) -> Schedule` over gradient steps.
      max_grad_norm: `(HParams) -> f32[]`, joint global-norm clip.
      per_agent: clip each entry of the leading axis of stacked parameters on its own.
      name: prefix of the phase's metrics, as in `critic_loss`; empty for none.
    """

    parts: Sequence[str]
    loss: Callable[..., tuple[Array, LossAux]]
    repeats: int = 1
    learning_rate: Callable[[HParams], Schedule] = lambda hparams: hparams.learning_rate
    max_grad_norm: Callable[[HParams], Array] = lambda hparams: hparams.max_grad_norm
    per_agent: bool = False
    name: str = ""


def make_optimiser(
    name: Literal["adam", "radam", "rmsprop"],
    eps: float,
    beta1: float,
    beta2: float,
    decay: float,
) -> Optimiser:
    """The direction of a step; the learning rate and the clip belong to the learner.

    RMSprop keeps `eps` outside the root, as PyTorch does (optax's default puts it inside, which
    damps small gradients several hundred times more).
    """
    if name == "rmsprop":
        return optax.scale_by_rms(decay=decay, eps=eps, eps_in_sqrt=False)
    scale = optax.scale_by_radam if name == "radam" else optax.scale_by_adam
    return scale(b1=beta1, b2=beta2, eps=eps)


def by_gradient(
    phases: Sequence[Phase],
    optimiser: Optimiser,
    targets: Sequence[str] = (),
    prepare: Callable[..., tuple[LearnerState, Trajectory]] = unprepared,
) -> Learner:
    """A learner that descends losses.

    In each gradient step the phases run in order, each on the parameters that the ones before left;
    then the target copies follow, counting the steps of their own parts. The priority is the first
    phase's.

    Args:
      phases: Q-learning is one phase over all parts.
      optimiser: gives the direction; every phase has a state of its own.
      targets: parts that have a target copy, `target_params[part]`.
      prepare: as in `Learner`.
    """
    steps = {
        part: sum(phase.repeats for phase in phases if part in phase.parts) for part in targets
    }

    def init(params: Params) -> LearnerState:
        return LearnerState(
            params=params,
            target_params={part: params[part] for part in targets},
            opt_state=tuple(optimiser.init(_select(params, phase.parts)) for phase in phases),
        )

    def update(
        state: LearnerState, batch: Batch, hparams: HParams, clock: Clock, key: Array
    ) -> tuple[LearnerState, Metrics, Array]:
        params, opt_states, seen = state.params, list(state.opt_state), []
        for i, phase in enumerate(phases):
            step = _phase_step(phase, optimiser, state.target_params, batch, hparams, clock)
            phase_key = key if len(phases) == 1 else jax.random.fold_in(key, i)
            (params, opt_states[i]), extras = _repeat(
                step, phase.repeats, (params, opt_states[i]), phase_key
            )
            seen.append(extras)
        target = {
            part: follow(
                params[part], copy, hparams, (clock.gradient_step + 1) * steps[part], steps[part]
            )
            for part, copy in state.target_params.items()
        }
        metrics = {f"train/{name}": x for extras in seen for name, x in extras.metrics.items()}
        after = LearnerState(params=params, target_params=target, opt_state=tuple(opt_states))
        return after, metrics, seen[0].priority

    return Learner(init, update, prepare, phases=tuple(phases))


def _phase_step(
    phase: Phase,
    optimiser: Optimiser,
    target_params: Params,
    batch: Batch,
    hparams: HParams,
    clock: Clock,
) -> Callable[[tuple[Params, Any], Array, Array], tuple[tuple[Params, Any], LossAux]]:
    """`((params, opt_state), k, key) -> ((params, opt_state), LossAux)`, one step of a phase."""

    def step(
        carried: tuple[Params, Any], k: Array, key: Array
    ) -> tuple[tuple[Params, Any], LossAux]:
        params, opt_state = carried

        def loss(own: Params) -> tuple[Array, LossAux]:
            merged = {**params, **own}
            return phase.loss(merged, target_params, batch, hparams, clock, k, key)

        own = _select(params, phase.parts)
        grads, extras = jax.grad(loss, has_aux=True)(own)
        max_norm = phase.max_grad_norm(hparams)
        if phase.per_agent:
            grads, norms = jax.vmap(clip, in_axes=(0, None))(grads, max_norm)
            norm = jnp.mean(norms)
        else:
            grads, norm = clip(grads, max_norm)
        direction, opt_state = optimiser.update(grads, opt_state, own)
        rate = schedules.linear(phase.learning_rate(hparams), clock.gradient_step)
        stepped = jax.tree.map(lambda p, d: p - rate * d, own, direction)
        prefix = f"{phase.name}_" if phase.name else ""
        metrics = {**extras.metrics, "grad_norm": (norm, jnp.ones(()))}
        named = {f"{prefix}{name}": value for name, value in metrics.items()}
        return ({**params, **stepped}, opt_state), LossAux(metrics=named, priority=extras.priority)

    return step


def _repeat(
    step: Callable[..., tuple[Any, LossAux]], repeats: int, carried: Any, key: Array
) -> tuple[Any, LossAux]:
    """Runs a step `repeats` times; metrics add up, the priority is the last one's."""
    if repeats == 1:
        return step(carried, jnp.zeros((), jnp.int32), key)

    def body(carried: Any, k: Array) -> tuple[Any, LossAux]:
        return step(carried, k, jax.random.fold_in(key, k))

    carried, extras = jax.lax.scan(body, carried, jnp.arange(repeats))
    metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), extras.metrics)
    return carried, LossAux(metrics=metrics, priority=extras.priority[-1])


def _select(params: Params, parts: Sequence[str]) -> Params:
    return {part: params[part] for part in parts}


def clip(grads: Params, max_norm: Array) -> tuple[Params, Array]:
    """Scales all gradients jointly to a global norm of at most `max_norm`.

    Returns:
      (gradients, f32[] norm before clipping).
    """
    norm = optax.tree.norm(grads)
    scale = jnp.minimum(1.0, max_norm / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
    return jax.tree.map(lambda g: g * scale, grads), norm


def follow(
    params: Params, target_params: Params, hparams: HParams, n_steps: Array, at_once: int = 1
) -> Params:
    """Target parameters after `n_steps` steps, the last `at_once` of them since the last call:
    every `target_period` steps they move the share `target_tau` of the way to `params`. (200, 1.0)
    is the papers' hard copy, (1, 0.01) is Polyak's.

    A select, not a `cond`, so that the period may differ between members.
    """
    due = n_steps % hparams.target_period < at_once
    tau = hparams.target_tau
    return jax.tree.map(
        lambda p, t: jnp.where(due, tau * p + (1.0 - tau) * t, t), params, target_params
    )
