"""An on-policy actor-critic: two phases, a target critic, and advantages made by `prepare`."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from qmix_jax import config, learner
from qmix_jax.agents import base as agents
from qmix_jax.algorithms import base
from qmix_jax.core import qvalues, returns
from qmix_jax.critics import base as critics
from qmix_jax.critics import state_value
from qmix_jax.types import Array, Batch, Clock, EnvSpec, HParams, Observed, Trajectory

NEEDS = base.Needs(replay=("on_policy",))


class Config(config.Model):
    """Options."""

    hidden: config.PositiveInt = 16
    critic_steps: config.PositiveInt = 2


def make(cfg: Config, spec: EnvSpec, components: base.Components) -> base.Algorithm:
    """A = r + gamma (1 - terminated) V(s') - V(s), divided by its running root mean square."""
    agent = components.agent(spec.actions.width)
    critic = state_value.make(spec, cfg.hidden, 1)

    def log_policy(params: Any, head: Array, avail: Array) -> Array:
        return jax.nn.log_softmax(jnp.where(avail, head, -1e9))

    def act(params: Any, carry: Any, seen: Observed, explore: Any, key: Array) -> Any:
        carry, head, _ = agents.step(agent, params["agent"], carry, seen)
        logits = log_policy(params, head, seen.avail_actions)
        sampled = jax.random.categorical(key, logits)
        best = qvalues.greedy(head, seen.avail_actions)
        actions = jnp.where(explore["sampling"] > 0, sampled, best).astype(jnp.int32)
        return carry, actions, {"log_prob": qvalues.take(logits, actions)}

    def value(params: Any, state: Array) -> Array:
        return critic.apply(params["critic"], critics.CriticInputs(state=state))[..., 0]

    def target(params: Any, x: Trajectory, hparams: HParams) -> Array:
        return returns.one_step(x.reward, x.terminated, value(params, x.state[1:]), hparams.gamma)

    def prepare(
        state: learner.LearnerState, x: Trajectory, hparams: HParams, clock: Clock, key: Array
    ) -> tuple[learner.LearnerState, Trajectory]:
        del clock, key
        advantage = target(state.params, x, hparams) - value(state.params, x.state[:-1])
        old = state.params["statistics"]
        square = 0.9 * old["square"] + 0.1 * jnp.mean(advantage**2)
        params = {**state.params, "statistics": {"square": square}}
        scaled = advantage / jnp.sqrt(square + 1e-6)
        behaviour = {**x.behaviour, "advantage": scaled}
        return state.replace(params=params), replace(x, behaviour=behaviour)

    def extras(batch: Batch, loss: Array) -> learner.LossAux:
        return learner.LossAux(metrics={"loss": (loss, jnp.ones(()))}, priority=batch.weight)

    def critic_loss(
        params: Any,
        targets: Any,
        batch: Batch,
        hparams: HParams,
        clock: Clock,
        k: Array,
        key: Array,
    ) -> Any:
        x = batch.trajectory
        error = value(params, x.state[:-1]) - target(targets, x, hparams)
        loss = base.mean_cost(error, batch)
        return loss, extras(batch, loss)

    def actor_loss(
        params: Any,
        targets: Any,
        batch: Batch,
        hparams: HParams,
        clock: Clock,
        k: Array,
        key: Array,
    ) -> Any:
        x = batch.trajectory
        head = agents.unroll(agent, params["agent"], x).head[:-1]
        taken = qvalues.take(log_policy(params, head, x.avail_actions[:-1]), x.actions)
        ratio = jnp.exp(taken - x.behaviour["log_prob"])
        gain = x.behaviour["advantage"][..., None] * ratio
        loss = -base.mean_cost(gain, batch, lambda x: x)
        return loss, extras(batch, loss)

    def start(key: Array) -> Any:
        keys = jax.random.split(key)
        return {
            "agent": agent.init(keys[0]),
            "critic": critic.init(keys[1]),
            "statistics": {"square": jnp.ones(())},
        }

    return base.Algorithm(
        needs=NEEDS,
        init=start,
        initial_carry=lambda n: {"act": agent.initial_carry(n), "learn": ()},
        act=act,
        exploration=lambda hparams, clock: {"sampling": jnp.ones(())},
        greedy={"sampling": 0.0},
        learner=learner.by_gradient(
            [
                learner.Phase(("critic",), critic_loss, repeats=cfg.critic_steps, name="critic"),
                learner.Phase(("agent",), actor_loss, name="actor"),
            ],
            components.optimiser,
            targets=("critic",),
            prepare=prepare,
        ),
        head="argmax",
    )
