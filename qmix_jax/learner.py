"""Gradient learning for any algorithm: takes losses; owns gradients, optimisers and target
networks.
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
    """Auxiliary output of a loss.

    Attributes:
      metrics: name -> (sum f32[], count f32[]).
      priority: f32[B], new priorities of the sampled sequences.
    """

    metrics: Metrics
    priority: Array


@record
class LearnerState:
    """State of a learner.

    Attributes:
      params: network name -> parameters; `params["statistics"]`, if any, is updated by `prepare`
        and never differentiated.
      target_params: network name -> target copy, for some of the networks.
      opt_state: any other state: optimisers, visit counts.
    """

    params: Params
    target_params: Params
    opt_state: Any


def identity_prepare(
    state: LearnerState, trajectory: Trajectory, hparams: HParams, clock: Clock, key: Array
) -> tuple[LearnerState, Trajectory]:
    """`Learner.prepare` of learners that store rollouts unchanged."""
    del hparams, clock, key
    return state, trajectory


class Learner(NamedTuple):
    """Updates parameters from data.

    Attributes:
      init: `(params) -> LearnerState`.
      update: `(LearnerState, Batch, HParams, Clock, key) -> (LearnerState, metrics, priority
        f32[B])`, one gradient step; `clock.gradient_step` counts the steps before it. The metrics
        include `loss`. A member is frozen when a metric whose name ends in `loss` or `grad_norm` is
        not finite.
      prepare: `(LearnerState, Trajectory, HParams, Clock, key) -> (LearnerState, Trajectory)`, once
        per rollout before it is stored: old values, advantages and targets go into `behaviour`,
        statistics of normalisers into `params["statistics"]`.
      online: `update` is called inside the rollout after every env step, for each environment in
        order, with a one-step trajectory and no buffer.
      phases: from `by_gradient`, for tools that differentiate or time them separately.
    """

    init: Callable[[Params], LearnerState]
    update: Callable[..., tuple[LearnerState, Metrics, Array]]
    prepare: Callable[..., tuple[LearnerState, Trajectory]] = identity_prepare
    online: bool = False
    phases: "Sequence[Phase]" = ()


class Phase(NamedTuple):
    """Gradient steps on some of the networks.

    Attributes:
      parts: names in `params` to differentiate and step.
      loss: `(params, target_params, Batch, HParams, Clock, k i32[], key) -> (loss f32[], LossAux)`,
        k counting the repeats.
      repeats: steps of this phase per gradient step.
      learning_rate: `(HParams) -> Schedule` over gradient steps.
      max_grad_norm: `(HParams) -> f32[]`, clip of the global norm.
      per_agent: clip each entry of the leading axis of stacked parameters separately.
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
    """Returns the direction of a step; the learner applies the learning rate and the clip.

    RMSprop adds `eps` outside the root, as PyTorch does (optax's default, inside, damps small
    gradients several hundred times more).
    """
    if name == "rmsprop":
        return optax.scale_by_rms(decay=decay, eps=eps, eps_in_sqrt=False)
    scale = optax.scale_by_radam if name == "radam" else optax.scale_by_adam
    return scale(b1=beta1, b2=beta2, eps=eps)


def by_gradient(
    phases: Sequence[Phase],
    optimiser: Optimiser,
    targets: Sequence[str] = (),
    prepare: Callable[..., tuple[LearnerState, Trajectory]] = identity_prepare,
) -> Learner:
    """Returns a learner that descends losses.

    In each gradient step the phases run in order, each on the parameters of the previous one; then
    the target copies are updated, counting the steps of their own parts. The priority is that of
    the first phase.

    Args:
      phases: one phase over all parts for Q-learning.
      optimiser: gives the direction; each phase has its own state.
      targets: parts with a target copy, `target_params[part]`.
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
        params, opt_states, auxs = state.params, list(state.opt_state), []
        for i, phase in enumerate(phases):
            step = _phase_step(phase, optimiser, state.target_params, batch, hparams, clock)
            phase_key = key if len(phases) == 1 else jax.random.fold_in(key, i)
            (params, opt_states[i]), aux = _repeat(
                step, phase.repeats, (params, opt_states[i]), phase_key
            )
            auxs.append(aux)
        target = {
            part: update_target(
                params[part], copy, hparams, (clock.gradient_step + 1) * steps[part], steps[part]
            )
            for part, copy in state.target_params.items()
        }
        metrics = {f"train/{name}": x for aux in auxs for name, x in aux.metrics.items()}
        state = LearnerState(params=params, target_params=target, opt_state=tuple(opt_states))
        return state, metrics, auxs[0].priority

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

        def loss(trained: Params) -> tuple[Array, LossAux]:
            merged = {**params, **trained}
            return phase.loss(merged, target_params, batch, hparams, clock, k, key)

        trained = _select(params, phase.parts)
        grads, aux = jax.grad(loss, has_aux=True)(trained)
        max_norm = phase.max_grad_norm(hparams)
        if phase.per_agent:
            grads, norms = jax.vmap(clip, in_axes=(0, None))(grads, max_norm)
            norm = jnp.mean(norms)
        else:
            grads, norm = clip(grads, max_norm)
        direction, opt_state = optimiser.update(grads, opt_state, trained)
        rate = schedules.linear(phase.learning_rate(hparams), clock.gradient_step)
        stepped = jax.tree.map(lambda p, d: p - rate * d, trained, direction)
        prefix = f"{phase.name}_" if phase.name else ""
        metrics = {**aux.metrics, "grad_norm": (norm, jnp.ones(()))}
        metrics = {f"{prefix}{name}": value for name, value in metrics.items()}
        return ({**params, **stepped}, opt_state), LossAux(metrics=metrics, priority=aux.priority)

    return step


def _repeat(
    step: Callable[..., tuple[Any, LossAux]], repeats: int, carried: Any, key: Array
) -> tuple[Any, LossAux]:
    """Runs a step `repeats` times; sums the metrics and returns the last priority."""
    if repeats == 1:
        return step(carried, jnp.zeros((), jnp.int32), key)

    def body(carried: Any, k: Array) -> tuple[Any, LossAux]:
        return step(carried, k, jax.random.fold_in(key, k))

    carried, aux = jax.lax.scan(body, carried, jnp.arange(repeats))
    metrics = jax.tree.map(lambda x: jnp.sum(x, axis=0), aux.metrics)
    return carried, LossAux(metrics=metrics, priority=aux.priority[-1])


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


def update_target(
    params: Params, target_params: Params, hparams: HParams, n_steps: Array, n_new: int = 1
) -> Params:
    """Moves target parameters by the share `target_tau` towards `params` every `target_period`
    steps: (200, 1.0) is the papers' hard copy, (1, 0.01) Polyak averaging.

    A select, not a `cond`, so that the period may differ between members.

    Args:
      n_steps: i32[], steps so far.
      n_new: steps since the last call.
    """
    due = n_steps % hparams.target_period < n_new
    tau = hparams.target_tau
    return jax.tree.map(
        lambda p, t: jnp.where(due, tau * p + (1.0 - tau) * t, t), params, target_params
    )
