"""Weighted QMIX: a monotonic joint value fitted with weights to an unrestricted one.

    y    = r + gamma * (1 - terminated) * Q*^-(s', best'),  best' = argmax_a q(tau', a)
    loss = w * (Q_tot(u) - y)^2 + (Q*(u) - y)^2
    w    = 1 where `centrally`:      u is best for every agent, or y > Q*^-(s, best)
                   `optimistically`: Q_tot(u) < y
           alpha elsewhere

Q* is a network over the state and one value per agent, of its taken action, from recurrent agents
of its own. best is greedy for the utilities, which stand in for the unknown best joint action.

Reference: Rashid et al. 2020 (CW-QMIX, OW-QMIX). Deviation: any monotonic mixer; the target may be
a Q(lambda), see `base.target`; priorities are errors of Q*, since those of Q_tot need not vanish.
Q*'s own network stays in f32 when `precision` is bfloat16.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from qmix_jax import config
from qmix_jax.agents import base as agents
from qmix_jax.core import masked, qvalues
from qmix_jax.factorisations import base
from qmix_jax.mixers import base as mixers
from qmix_jax.nn import functional, mlp
from qmix_jax.types import Array, Batch, EnvSpec, HParams, Trajectory


class Config(base.TargetConfig):
    """Options of weighted QMIX; the online network always selects the next actions."""

    weighting: Literal["centrally", "optimistically"] = "centrally"
    """Which errors keep weight 1: of joint actions that may be the best, or underestimates."""
    central_hidden: config.PositiveInt = 256
    """Width of the hidden layers of Q*."""
    central_layers: config.PositiveInt = 3
    """Number of hidden layers of Q*."""


class Coefficients(config.Model):
    """Weighted QMIX's own number, `hparams.algo`; alpha 1 is QMIX regressed to Q*'s target."""

    alpha: config.Fraction = 0.1


class _Central(nn.Module):
    """Q*: q_taken f32[..., N], state f32[..., S] -> f32[...]."""

    hidden: int
    layers: int

    @nn.compact
    def __call__(self, q_taken: Array, state: Array) -> Array:
        x = jnp.concatenate([state, q_taken], axis=-1)
        q = mlp.MLP(1, self.hidden, self.layers, name="q")(x)
        return (q + mlp.MLP(1, self.hidden, 1, name="v")(state))[..., 0]


class _Weighing(NamedTuple):
    """What decides about the weights, f32[T, B] each, `all_best` bool[T, B]."""

    target: Array
    q_tot: Array
    q_star_best: Array
    all_best: Array


_FULL = {
    "centrally": lambda seen: seen.all_best | (seen.target > seen.q_star_best),
    "optimistically": lambda seen: seen.q_tot < seen.target,
}


def make(
    cfg: Config, spec: EnvSpec, agent: agents.Agent, mixer: mixers.Mixer | None
) -> base.Factorisation:
    """The factorisation; its carry holds the acting and the central agents'.

    Raises: ValueError without a monotonic mixer.
    """
    if mixer is None or not mixer.monotonic:
        raise ValueError("algo: factorisation 'wqmix' needs a monotonic mixer; set algo.mixer.name")
    central_init, q_star = functional.pure(_Central(cfg.central_hidden, cfg.central_layers))

    def init(key: Array) -> base.Params:
        keys = jax.random.split(key, 4)
        inputs = jnp.zeros((spec.n_agents,)), jnp.zeros((spec.state_size,))
        return {
            "agent": agent.init(keys[0]),
            "mixer": mixer.init(keys[1]),
            "central_agent": agent.init(keys[2]),
            "central": central_init(keys[3], *inputs),
        }

    def initial_carry(batch_size: int) -> base.Carry:
        return {name: agent.initial_carry(batch_size) for name in ("agent", "central_agent")}

    def unrestricted_values(
        params: base.Params, obs: Array, state: Array, avail_actions: Array, actions: Array
    ) -> Array:
        del avail_actions
        q = base.first_step(agent, params["central_agent"], obs).q
        q, state = (jnp.broadcast_to(x, (len(actions), *x.shape)) for x in (q, state))
        return q_star(params["central"], qvalues.take(q, actions), state)

    return base.Factorisation(
        init=init,
        initial_carry=initial_carry,
        act=_make_act(agent),
        loss=_make_loss(cfg, agent, mixer, q_star),
        utilities=base.make_utilities(agent, lambda params: params["agent"]),
        joint_values=base.make_joint_values(agent, mixer),
        uses_target=True,
        unrestricted_values=unrestricted_values,
    )


def _make_act(agent: agents.Agent) -> Callable:
    """Acts on the utilities and takes the central agents' carry along, which learning begins with
    where sequences continue an episode. Elsewhere nothing reads it, and the compiler drops it.
    """
    act_on_utilities = base.make_act(agent, lambda params: params["agent"])

    def act(
        params: base.Params,
        carry: base.Carry,
        obs: Array,
        prev_actions: Array,
        reset: Array,
        avail_actions: Array,
        epsilon: Array,
        key: Array,
    ) -> tuple[base.Carry, Array]:
        acting, actions = act_on_utilities(
            params, carry["agent"], obs, prev_actions, reset, avail_actions, epsilon, key
        )
        seen = obs[None], prev_actions[None], reset[None]
        central = agent.unroll(params["central_agent"], carry["central_agent"], *seen)[0]
        return {"agent": acting, "central_agent": central}, actions

    return act


def _of(name: str, trajectory: Trajectory) -> Trajectory:
    """The trajectory as one of the two agent networks began it."""
    start = trajectory.start
    return replace(trajectory, start=start and replace(start, carry=start.carry[name]))


def _make_loss(
    cfg: Config, agent: agents.Agent, mixer: mixers.Mixer, q_star: Callable[..., Array]
) -> Callable:
    def loss(
        params: base.Params, target_params: base.Params, batch: Batch, hparams: HParams, key: Array
    ) -> tuple[Array, base.Extras]:
        del key
        trajectory = batch.trajectory
        actions, avail, state = trajectory.actions, trajectory.avail_actions, trajectory.state
        q = agents.unroll(agent, params["agent"], _of("agent", trajectory)).q
        networks = params["central_agent"], target_params["central_agent"]
        central, fixed = agents.unroll_pair(agent, *networks, _of("central_agent", trajectory))
        best = qvalues.greedy(q, avail)

        def next_value(actions: Array) -> Array:
            taken = qvalues.take(fixed.q[1:], actions)
            return q_star(target_params["central"], taken, state[1:])

        target = base.target(cfg, batch, hparams, best[1:], next_value)
        mixed = mixer.apply(params["mixer"], mixers.inputs(q[:-1], avail[:-1], actions, state[:-1]))
        of_best = qvalues.take(fixed.q[:-1], best[:-1])
        seen = _Weighing(
            target=target,
            q_tot=mixed.q_tot,
            q_star_best=q_star(target_params["central"], of_best, state[:-1]),
            all_best=jnp.all(actions == best[:-1], axis=-1),
        )
        weight = jnp.where(_FULL[cfg.weighting](seen), 1.0, hparams.algo["alpha"])
        monotonic, extras = base.td_loss(cfg, mixed.q_tot, target, batch, hparams, weight)

        value = q_star(params["central"], qvalues.take(central.q[:-1], actions), state[:-1])
        free, of_central = base.td_loss(cfg, value, target, batch, hparams)
        total = monotonic + masked.mean(mixed.penalty, trajectory.valid) + free
        parts = {"loss": total, "loss_monotonic": monotonic, "loss_central": free}
        metrics = {name: (part, jnp.ones(())) for name, part in parts.items()}
        metrics["weight"] = masked.total(weight, trajectory.valid)
        metrics = {**extras.metrics, **metrics}
        return total, base.Extras(metrics=metrics, priority=of_central.priority)

    return loss
