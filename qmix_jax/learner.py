"""One gradient update for any factorisation. The engine knows no algorithm: it takes the loss."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qmix_jax.core import schedules
from qmix_jax.factorisations import base as factorisations
from qmix_jax.types import Array, Batch, HParams, Metrics, record

Params = Any


@record
class LearnerState:
    """Attributes:
    params, target_params: trees; the latter is `()` where the factorisation uses no target.
    opt_state: the optimiser's.
    """

    params: Params
    target_params: Params
    opt_state: Any


class Learner(NamedTuple):
    """Attributes:
    init: `(key) -> LearnerState`.
    update: `(LearnerState, Batch, HParams, gradient_step i32[], key)
      -> (LearnerState, metrics, priority f32[B])`.
    """

    init: Callable[[Array], LearnerState]
    update: Callable[..., tuple[LearnerState, Metrics, Array]]


def make_optimiser(
    name: Literal["adam", "radam", "rmsprop"],
    eps: float,
    beta1: float,
    beta2: float,
    decay: float,
) -> optax.GradientTransformation:
    """The direction of a step; the learning rate and the clip belong to the learner.

    RMSprop keeps `eps` outside the root, as PyTorch does (optax's default puts it inside, which
    damps small gradients several hundred times more).
    """
    if name == "rmsprop":
        return optax.scale_by_rms(decay=decay, eps=eps, eps_in_sqrt=False)
    scale = optax.scale_by_radam if name == "radam" else optax.scale_by_adam
    return scale(b1=beta1, b2=beta2, eps=eps)


def make(
    factorisation: factorisations.Factorisation, optimiser: optax.GradientTransformation
) -> Learner:
    """The learner of a factorisation."""

    def init(key: Array) -> LearnerState:
        params = factorisation.init(key)
        return LearnerState(
            params=params,
            target_params=params if factorisation.uses_target else (),
            opt_state=optimiser.init(params),
        )

    def update(
        state: LearnerState, batch: Batch, hparams: HParams, gradient_step: Array, key: Array
    ) -> tuple[LearnerState, Metrics, Array]:
        grad = jax.grad(factorisation.loss, has_aux=True)
        grads, extras = grad(state.params, state.target_params, batch, hparams, key)
        grads, norm = clip(grads, hparams.max_grad_norm)
        direction, opt_state = optimiser.update(grads, state.opt_state, state.params)
        rate = schedules.linear(hparams.learning_rate, gradient_step)
        params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
        target = state.target_params
        if factorisation.uses_target:
            target = follow(params, target, hparams, gradient_step + 1)
        metrics = {**extras.metrics, "grad_norm": (norm, jnp.ones(()))}
        named = {f"train/{name}": value for name, value in metrics.items()}
        return (
            LearnerState(params=params, target_params=target, opt_state=opt_state),
            named,
            extras.priority,
        )

    return Learner(init, update)


def clip(grads: Params, max_norm: Array) -> tuple[Params, Array]:
    """Scales all gradients jointly to a global norm of at most `max_norm`.

    Returns:
      (gradients, f32[] norm before clipping).
    """
    norm = optax.tree.norm(grads)
    scale = jnp.minimum(1.0, max_norm / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny))
    return jax.tree.map(lambda g: g * scale, grads), norm


def follow(params: Params, target_params: Params, hparams: HParams, gradient_step: Array) -> Params:
    """Target parameters after `gradient_step` steps: every `target_period` steps they move the
    share `target_tau` of the way to `params`. (200, 1.0) is the papers' hard copy, (1, 0.01) is
    Polyak's.

    A select, not a `cond`, so that the period may differ between members.
    """
    due = gradient_step % hparams.target_period == 0
    tau = hparams.target_tau
    return jax.tree.map(
        lambda p, t: jnp.where(due, tau * p + (1.0 - tau) * t, t), params, target_params
    )
