"""QTRAN: a free joint value Q_jt, and a sum of utilities bound to it on the greedy joint action.

    y      = r + gamma * (1 - terminated) * Q_jt^-(s', argmax_a q(tau', a))
    L_td   = (Q_jt(u) - y)^2
    L_opt  = (sum_i q_i(best_i) + V_jt(s) - Q_jt(best))^2        Q_jt without gradient, V_jt with
    L_nopt = base: min(sum_i q_i(u_i) + V_jt(s) - Q_jt(u), 0)^2
             alt:  mean_i (min_v q_i(v) + sum_{j != i} q_j(u_j) + V_jt(s) - Q_jt_i(v, u_{-i}))^2
    loss   = L_td + lambda_opt * L_opt + lambda_nopt * L_nopt

Q_jt reads the state and the sum over agents of encoded hidden states and actions, so that L_td
trains the agents' recurrent layers too. In `alt` agent i has a head with a value for each of its
own actions v given the others' u_{-i}; L_td and L_opt are means over the heads of all agents.

Reference: Son et al. 2019; networks as in PyMARL (`base`) and the common PyTorch code of `alt`, in
which a head reads the agent's id, all encoded hidden states and the others' encoded actions.
Deviation: the paper observes the state fully and needs no V_jt (as PyMARL, we have it); L_opt takes
the online Q_jt; the target may be a Q(lambda), see `base.target`. Critics stay in f32 when
`precision` is bfloat16.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from pydantic import Field

from qmix_jax import config
from qmix_jax.agents import base as agents
from qmix_jax.core import qvalues
from qmix_jax.factorisations import base
from qmix_jax.mixers import base as mixers
from qmix_jax.nn import functional, mlp
from qmix_jax.types import Array, Batch, EnvSpec, HParams


class Config(base.TDConfig):
    """Options of QTRAN."""

    variant: Literal["base", "alt"] = "base"
    """Constraint on the other actions: `base` bounds the executed joint action from below; `alt`
    makes the tightest of each agent's alternatives hold with equality."""
    hidden: config.PositiveInt = 64
    """Width of the hidden layers of Q_jt and V_jt."""
    layers: config.PositiveInt = 2
    """Number of hidden layers of Q_jt and V_jt."""


class Coefficients(config.Model):
    """QTRAN's own numbers, `hparams.algo`; with lambda_nopt 0.1 (PyMARL) it fails on games whose
    penalties hide the optimum."""

    lambda_opt: Annotated[float, Field(ge=0)] = 1.0
    lambda_nopt: Annotated[float, Field(ge=0)] = 1.0


def _encode(x: Array, name: str) -> Array:
    return mlp.MLP(x.shape[-1], x.shape[-1], 1, name=name)(x)


class _Joint(nn.Module):
    """Q_jt of the joint action: hidden f32[..., N, H], actions f32[..., N, A] one-hot, state
    f32[..., S] -> f32[..., 1]."""

    hidden: int
    layers: int

    @nn.compact
    def __call__(self, hidden: Array, actions: Array, state: Array) -> Array:
        encoded = _encode(jnp.concatenate([hidden, actions], axis=-1), "encoder")
        x = jnp.concatenate([state, jnp.sum(encoded, axis=-2)], axis=-1)
        return mlp.MLP(1, self.hidden, self.layers, name="q")(x)


class _Counterfactual(nn.Module):
    """Q_jt_i of every action of agent i given the others', from what `_Joint` reads;
    f32[..., N, A]."""

    hidden: int
    layers: int

    @nn.compact
    def __call__(self, hidden: Array, actions: Array, state: Array) -> Array:
        *leading, n_agents, n_actions = actions.shape

        def each(x: Array) -> Array:
            return jnp.broadcast_to(x, (*leading, n_agents, x.shape[-1]))

        encoded = _encode(actions, "action_encoder")
        others = jnp.sum(encoded, axis=-2, keepdims=True) - encoded
        everyone = jnp.sum(_encode(hidden, "hidden_encoder"), axis=-2, keepdims=True)
        ids = jnp.expand_dims(jnp.eye(n_agents), range(len(leading)))
        parts = [each(state[..., None, :]), each(ids), each(everyone), others]
        network = mlp.MLP(n_actions, self.hidden, self.layers, name="q")
        return network(jnp.concatenate(parts, axis=-1))


class _Variant(NamedTuple):
    """What the variants differ in; K is 1 or the number of agents.

    Attributes:
      network: gives `heads`, f32[..., 1] or f32[..., N, A].
      taken: `(heads, actions i32[..., N]) -> f32[..., K]`, Q_jt of the actions.
      violation: `(q f32[..., N, A], v f32[..., 1], heads, actions, avail_actions) -> f32[..., K]`,
        what L_nopt squares.
    """

    network: type[nn.Module]
    taken: Callable[[Array, Array], Array]
    violation: Callable[[Array, Array, Array, Array, Array], Array]


def _joint_violation(q: Array, v: Array, q_jt: Array, actions: Array, avail: Array) -> Array:
    del avail
    return jnp.minimum(_summed(q, actions) + v - q_jt, 0.0)


def _smallest_gap(q: Array, v: Array, q_jt: Array, actions: Array, avail: Array) -> Array:
    others = _summed(q, actions) - qvalues.take(q, actions)
    gap = q + (others + v)[..., None] - q_jt
    return jnp.min(jnp.where(avail, gap, jnp.inf), axis=-1)


def _summed(q: Array, actions: Array) -> Array:
    """f32[..., N, A], i32[..., N] -> f32[..., 1]."""
    return jnp.sum(qvalues.take(q, actions), axis=-1, keepdims=True)


_VARIANTS = {
    "base": _Variant(_Joint, lambda heads, actions: heads, _joint_violation),
    "alt": _Variant(_Counterfactual, qvalues.take, _smallest_gap),
}


class _Networks(NamedTuple):
    """Attributes:
    init: `(key) -> params` with the parts `agent`, `critic` and `value`.
    heads: `(params, hidden f32[..., N, H], actions i32[..., N], state f32[..., S]) -> heads`.
    value: `(params, state f32[..., S]) -> V_jt f32[..., 1]`.
    """

    init: Callable[[Array], base.Params]
    heads: Callable[[base.Params, Array, Array, Array], Array]
    value: Callable[[base.Params, Array], Array]


def make(
    cfg: Config, spec: EnvSpec, agent: agents.Agent, mixer: mixers.Mixer | None
) -> base.Factorisation:
    """The factorisation.

    Raises: ValueError with a mixer.
    """
    if mixer is not None:
        raise ValueError("algo: factorisation 'qtran' adds utilities up; set algo.mixer=null")
    networks = _make_networks(cfg, spec, agent)

    def rows(params: base.Params, obs: Array, actions: Array) -> agents.Unrolled:
        first = base.first_step(agent, params["agent"], obs)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (len(actions), *x.shape)), first)

    def joint_values(
        params: base.Params, obs: Array, state: Array, avail_actions: Array, actions: Array
    ) -> Array:
        del avail_actions
        q = rows(params, obs, actions).q
        return (_summed(q, actions) + networks.value(params, state[None]))[:, 0]

    def unrestricted_values(
        params: base.Params, obs: Array, state: Array, avail_actions: Array, actions: Array
    ) -> Array:
        del avail_actions
        hidden = rows(params, obs, actions).hidden
        states = jnp.broadcast_to(state, (len(actions), len(state)))
        heads = networks.heads(params, hidden, actions, states)
        return jnp.mean(_VARIANTS[cfg.variant].taken(heads, actions), axis=-1)

    return base.Factorisation(
        init=networks.init,
        initial_carry=agent.initial_carry,
        act=base.make_act(agent, lambda params: params["agent"]),
        loss=_make_loss(cfg, agent, networks),
        utilities=base.make_utilities(agent, lambda params: params["agent"]),
        joint_values=joint_values,
        uses_target=True,
        unrestricted_values=unrestricted_values,
    )


def _make_networks(cfg: Config, spec: EnvSpec, agent: agents.Agent) -> _Networks:
    network = _VARIANTS[cfg.variant].network(cfg.hidden, cfg.layers)
    critic_init, critic_apply = functional.pure(network)
    value_init, value_apply = functional.pure(mlp.MLP(1, cfg.hidden, cfg.layers))

    def init(key: Array) -> base.Params:
        key_agent, key_critic, key_value = jax.random.split(key, 3)
        params = agent.init(key_agent)
        obs, state = jnp.zeros((spec.n_agents, *spec.obs_shape)), jnp.zeros((spec.state_size,))
        first = base.first_step(agent, params, obs)
        return {
            "agent": params,
            "critic": critic_init(key_critic, first.hidden, first.q, state),
            "value": value_init(key_value, state),
        }

    def heads(params: base.Params, hidden: Array, actions: Array, state: Array) -> Array:
        one_hot = jax.nn.one_hot(actions, spec.n_actions_max)
        return critic_apply(params["critic"], hidden, one_hot, state)

    return _Networks(init, heads, lambda params, state: value_apply(params["value"], state))


def _make_loss(cfg: Config, agent: agents.Agent, networks: _Networks) -> Callable:
    variant = _VARIANTS[cfg.variant]

    def q_jt(params: base.Params, hidden: Array, actions: Array, state: Array) -> Array:
        return variant.taken(networks.heads(params, hidden, actions, state), actions)

    def loss(
        params: base.Params, target_params: base.Params, batch: Batch, hparams: HParams, key: Array
    ) -> tuple[Array, base.Extras]:
        del key
        trajectory, weights = batch.trajectory, hparams.algo
        values = base.next_values(cfg, agent, params["agent"], target_params["agent"], batch)
        state, actions, avail = trajectory.state[:-1], trajectory.actions, trajectory.avail_actions

        def next_value(actions: Array) -> Array:
            return q_jt(target_params, values.hidden_next, actions, trajectory.state[1:])

        target = base.target(cfg, batch, hparams, values.next_actions, next_value)
        heads = networks.heads(params, values.hidden, actions, state)
        td, extras = base.td_loss(cfg, variant.taken(heads, actions), target, batch, hparams)

        best, v = qvalues.greedy(values.q, avail[:-1]), networks.value(params, state)
        q_best, bound = jax.lax.stop_gradient((q_jt(params, values.hidden, best, state), heads))
        opt = base.mean_cost(_summed(values.q, best) + v - q_best, batch)
        violation = variant.violation(values.q, v, bound, actions, avail[:-1])
        nopt = base.mean_cost(violation, batch)

        total = td + weights["lambda_opt"] * opt + weights["lambda_nopt"] * nopt
        parts = {"loss": total, "loss_td": td, "loss_opt": opt, "loss_nopt": nopt}
        metrics = {name: (part, jnp.ones(())) for name, part in parts.items()}
        return total, replace(extras, metrics={**extras.metrics, **metrics})

    return loss
