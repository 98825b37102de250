"""A tabular learner that learns online: each agent keeps the mean of its own rewards by action."""

from typing import Any

import jax
import jax.numpy as jnp

from qmix_jax import config, learner
from qmix_jax.algorithms import base
from qmix_jax.core import exploration
from qmix_jax.types import Array, Batch, Clock, EnvSpec, HParams, Observed

NEEDS = base.Needs(reward="own", zero_sum=True, n_agents=2, tabular=True)


class Config(config.Model):
    """Options."""


def make(cfg: Config, spec: EnvSpec, components: base.Components) -> base.Algorithm:
    """Q_i(s, a) += (r_i - Q_i(s, a)) / n_i(s, a), greedy for its own table but for epsilon."""
    del cfg, components
    assert spec.n_states is not None
    shape = (spec.n_agents, spec.n_states, spec.actions.width)
    rows = jnp.arange(spec.n_agents)

    def act(params: Any, carry: Any, seen: Observed, explore: Any, key: Array) -> Any:
        q = params["q"][rows, seen.obs[..., 0].astype(jnp.int32)]
        return carry, exploration.epsilon_greedy(key, q, seen.avail_actions, explore["epsilon"]), {}

    def start(params: Any) -> learner.LearnerState:
        return learner.LearnerState(
            params=params, target_params={}, opt_state={"n": jnp.zeros(shape)}
        )

    def update(
        state: learner.LearnerState, batch: Batch, hparams: HParams, clock: Clock, key: Array
    ) -> Any:
        del hparams, key
        x = batch.trajectory
        where = (rows, x.obs[0, 0, :, 0].astype(jnp.int32), x.actions[0, 0])
        n = state.opt_state["n"].at[where].add(1.0)
        error = x.reward[0, 0] - state.params["q"][where]
        q = state.params["q"].at[where].add(error / n[where])
        after = state.replace(params={"q": q}, opt_state={"n": n})
        loss = jnp.mean(jnp.abs(error))
        ones = jnp.ones(())
        metrics = {
            "train/loss": (loss, ones),
            "train/step": (clock.gradient_step.astype(jnp.float32), ones),
            "train/env_step": (clock.env_steps, ones),
        }
        return after, metrics, jnp.zeros((1,))

    return base.Algorithm(
        needs=NEEDS,
        init=lambda key: {"q": 0.01 * jax.random.normal(key, shape)},
        initial_carry=lambda n: {"act": (), "learn": ()},
        act=act,
        exploration=base.epsilon,
        greedy={"epsilon": 0.0},
        learner=learner.Learner(start, update, online=True),
        head=None,
    )
