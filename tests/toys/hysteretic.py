"""Hysteretic Q-learning: independent learners that forgive what their partners explore.

    loss = mean of w_i * (q_i(u_i) - y_i)^2,   w_i = 1 where y_i > q_i(u_i), else beta

Reference: Matignon et al. 2007; deep: Omidshafiei et al. 2017. Deviation: none.
"""

from typing import Any

import jax
import jax.numpy as jnp

from qmix_jax import config, learner
from qmix_jax.agents import base as agents
from qmix_jax.algorithms import base
from qmix_jax.core import qvalues
from qmix_jax.types import Array, Batch, EnvSpec, HParams, Trajectory

NEEDS = base.Needs()


class Config(base.TDConfig):
    """Options: those of all temporal-difference algorithms."""


class Coefficients(config.Model):
    """Hyperparameters `hparams.algo`, which may differ between members."""

    beta: config.Fraction = 0.4
    """Weight of errors below the estimate; 1 is independent Q-learning."""


def make(cfg: Config, spec: EnvSpec, components: base.Components) -> base.Algorithm:
    """The algorithm."""
    agent = components.agent(spec.actions.width)

    def loss(
        params: Any, target_params: Any, batch: Batch, hparams: HParams
    ) -> tuple[Array, learner.LossAux]:
        values = base.next_values(cfg, agent, params["agent"], target_params["agent"], batch)
        taken = qvalues.take(values.q, batch.trajectory.actions)

        def value_next(actions: Array) -> Array:
            return qvalues.take(values.q_next, actions)

        y = base.target(cfg, batch, hparams, values.next_actions, value_next, independent=True)
        weight = jnp.where(y > jax.lax.stop_gradient(taken), 1.0, hparams.algo["beta"])
        return base.td_loss(cfg, taken, y, batch, hparams, weight)

    def inspect(params: Any, trajectory: Trajectory) -> dict[str, Array]:
        return {"utilities": agents.unroll(agent, params["agent"], trajectory).head[:-1]}

    return base.q_learning(
        agent,
        components.optimiser,
        parts=("agent",),
        targets=("agent",),
        init=lambda key: {"agent": agent.init(key)},
        loss=loss,
        inspect=inspect,
        needs=NEEDS,
    )
