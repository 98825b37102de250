"""A continuous actor-critic on replayed steps: a central critic, and actors that climb it."""

from typing import Any

import jax
import jax.numpy as jnp

from qmix_jax import config, learner
from qmix_jax.agents import base as agents
from qmix_jax.algorithms import base
from qmix_jax.core import schedules
from qmix_jax.critics import base as critics
from qmix_jax.nn import functional, mlp
from qmix_jax.types import Array, Batch, Box, Clock, EnvSpec, HParams, Observed

NEEDS = base.Needs(actions=(Box,), replay=("uniform", "transitions"), feed_forward=True)


class Config(config.Model):
    """Options."""

    hidden: config.PositiveInt = 32


def make(cfg: Config, spec: EnvSpec, components: base.Components) -> base.Algorithm:
    """y = r + gamma (1 - terminated) Q'(s', mu'(o')); the actor ascends Q(s, mu(o))."""
    agent = components.agent(spec.actions.width)
    init, apply = functional.pure(mlp.MLP(1, cfg.hidden, 2))
    width = spec.state_size + spec.n_agents * spec.actions.width
    critic = critics.Critic(
        init=lambda key: init(key, jnp.zeros((width,))),
        apply=lambda params, x: apply(
            params, jnp.concatenate([x.state, x.actions.reshape(*x.actions.shape[:-2], -1)], -1)
        ),
    )
    low, high = spec.actions.low, spec.actions.high

    def scaled(head: Array) -> Array:
        return low + (jnp.tanh(head) + 1.0) * (high - low) / 2.0

    def act(params: Any, carry: Any, seen: Observed, explore: Any, key: Array) -> Any:
        carry, head, _ = agents.step(agent, params["agent"], carry, seen)
        noise = explore["sigma"] * jax.random.normal(key, head.shape)
        return carry, jnp.clip(scaled(head) + noise, low, high), {}

    def q(params: Any, state: Array, actions: Array) -> Array:
        inputs = critics.CriticInputs(state=state, actions=actions)
        return critic.apply(params["critic"], inputs)[..., 0]

    def mu(params: Any, batch: Batch) -> Array:
        return scaled(agents.unroll(agent, params["agent"], batch.trajectory).head)

    def extras(batch: Batch, loss: Array) -> learner.LossAux:
        return learner.LossAux(metrics={"loss": (loss, jnp.ones(()))}, priority=batch.weight)

    def critic_loss(
        params: Any, target: Any, batch: Batch, hparams: HParams, clock: Clock, k: Array, key: Array
    ) -> Any:
        x = batch.trajectory
        following = q(target, x.state[1:], mu(target, batch)[1:])
        y = x.reward + hparams.gamma * jnp.where(x.terminated, 0.0, following)
        error = q(params, x.state[:-1], x.actions) - jax.lax.stop_gradient(y)
        loss = base.mean_cost(error, batch)
        return loss, extras(batch, loss)

    def actor_loss(
        params: Any, target: Any, batch: Batch, hparams: HParams, clock: Clock, k: Array, key: Array
    ) -> Any:
        state = batch.trajectory.state[:-1]
        loss = -base.mean_cost(q(params, state, mu(params, batch)[:-1]), batch, lambda x: x)
        return loss, extras(batch, loss)

    def start(key: Array) -> Any:
        keys = jax.random.split(key)
        return {"agent": agent.init(keys[0]), "critic": critic.init(keys[1])}

    return base.Algorithm(
        needs=NEEDS,
        init=start,
        initial_carry=lambda n: {"act": agent.initial_carry(n), "learn": ()},
        act=act,
        exploration=lambda h, clock: {"sigma": schedules.linear(h.epsilon, clock.env_steps)},
        greedy={"sigma": 0.0},
        learner=learner.by_gradient(
            [
                learner.Phase(("critic",), critic_loss, name="critic"),
                learner.Phase(("agent",), actor_loss, name="actor"),
            ],
            components.optimiser,
            targets=("critic", "agent"),
        ),
        head="tanh",
    )
