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
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from pydantic import Field

from qmix_jax import config, learner
from qmix_jax.agents import base as agents
from qmix_jax.algorithms import base
from qmix_jax.core import qvalues
from qmix_jax.critics import base as critics
from qmix_jax.critics import counterfactual, joint, state_value
from qmix_jax.types import Array, Batch, EnvSpec, HParams, Trajectory

NEEDS = base.Needs()


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


class _Variant(NamedTuple):
    """What the variants differ in; K is 1 or the number of agents.

    Attributes:
      critic: makes Q_jt, whose `heads` are f32[..., 1] or f32[..., N, A].
      taken: `(heads, actions i32[..., N]) -> f32[..., K]`, Q_jt of the actions.
      violation: `(q f32[..., N, A], v f32[..., 1], heads, actions, avail_actions) -> f32[..., K]`,
        what L_nopt squares.
    """

    critic: Callable[..., critics.Critic]
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
    "base": _Variant(joint.make, lambda heads, actions: heads, _joint_violation),
    "alt": _Variant(counterfactual.make, qvalues.take, _smallest_gap),
}


class _QTRANNetworks(NamedTuple):
    """The networks, and what is made of their parameters."""

    cfg: Config
    spec: EnvSpec
    agent: agents.Agent
    critic: critics.Critic
    state_critic: critics.Critic

    @property
    def variant(self) -> _Variant:
        """Of the two."""
        return _VARIANTS[self.cfg.variant]

    def init(self, key: Array) -> base.Params:
        """`Algorithm.init`."""
        key_agent, key_critic, key_value = jax.random.split(key, 3)
        return {
            "agent": self.agent.init(key_agent),
            "critic": self.critic.init(key_critic),
            "value": self.state_critic.init(key_value),
        }

    def heads(self, params: base.Params, hidden: Array, actions: Array, state: Array) -> Array:
        """The critic's outputs, f32[..., 1] or f32[..., N, A]."""
        one_hot = self.spec.actions.features(actions)
        inputs = critics.CriticInputs(state=state, hidden=hidden, actions=one_hot)
        return self.critic.apply(params["critic"], inputs)

    def q_jt(self, params: base.Params, hidden: Array, actions: Array, state: Array) -> Array:
        """Q_jt of the actions, f32[..., K]."""
        return self.variant.taken(self.heads(params, hidden, actions, state), actions)

    def v_jt(self, params: base.Params, state: Array) -> Array:
        """V_jt, f32[..., 1]."""
        return self.state_critic.apply(params["value"], critics.CriticInputs(state=state))

    def loss(
        self, params: base.Params, target_params: base.Params, batch: Batch, hparams: HParams
    ) -> tuple[Array, learner.LossAux]:
        """All three parts; see the module."""
        cfg, variant = self.cfg, self.variant
        trajectory, weights = batch.trajectory, hparams.algo
        values = base.next_values(cfg, self.agent, params["agent"], target_params["agent"], batch)
        state, actions, avail = trajectory.state[:-1], trajectory.actions, trajectory.avail_actions

        def next_value(actions: Array) -> Array:
            return self.q_jt(target_params, values.hidden_next, actions, trajectory.state[1:])

        target = base.target(cfg, batch, hparams, values.next_actions, next_value)
        bound = self.heads(params, values.hidden, actions, state)
        td, extras = base.td_loss(cfg, variant.taken(bound, actions), target, batch, hparams)

        best, v = qvalues.greedy(values.q, avail[:-1]), self.v_jt(params, state)
        q_best, fixed = jax.lax.stop_gradient(
            (self.q_jt(params, values.hidden, best, state), bound)
        )
        opt = base.mean_cost(_summed(values.q, best) + v - q_best, batch)
        violation = variant.violation(values.q, v, fixed, actions, avail[:-1])
        nopt = base.mean_cost(violation, batch)

        total = td + weights["lambda_opt"] * opt + weights["lambda_nopt"] * nopt
        parts = {"loss": total, "loss_td": td, "loss_opt": opt, "loss_nopt": nopt}
        metrics = {name: (part, jnp.ones(())) for name, part in parts.items()}
        return total, replace(extras, metrics={**extras.metrics, **metrics})

    def inspect(self, params: base.Params, trajectory: Trajectory) -> dict[str, Array]:
        """`Algorithm.inspect`."""
        outputs = agents.unroll(self.agent, params["agent"], trajectory)
        q, hidden = outputs.head[:-1], outputs.hidden[:-1]
        state, actions = trajectory.state[:-1], trajectory.actions
        return {
            "utilities": q,
            "q_tot": (_summed(q, actions) + self.v_jt(params, state))[..., 0],
            "q_joint": jnp.mean(self.q_jt(params, hidden, actions, state), axis=-1),
        }


def make(cfg: Config, spec: EnvSpec, components: base.Components) -> base.Algorithm:
    """The algorithm.

    Raises: ValueError with a mixer.
    """
    if components.mixer is not None:
        raise ValueError("algo: algorithm 'qtran' adds utilities up; set algo.mixer=null")
    agent = components.agent(spec.actions.width)
    make_critic = _VARIANTS[cfg.variant].critic
    learnt = _QTRANNetworks(
        cfg=cfg,
        spec=spec,
        agent=agent,
        critic=make_critic(spec, _hidden_size(agent, spec), cfg.hidden, cfg.layers),
        state_critic=state_value.make(spec, cfg.hidden, cfg.layers),
    )
    return base.q_learning(
        agent,
        components.optimiser,
        parts=("agent", "critic", "value"),
        targets=("agent", "critic"),
        init=learnt.init,
        loss=learnt.loss,
        inspect=learnt.inspect,
        needs=NEEDS,
    )


def _hidden_size(agent: agents.Agent, spec: EnvSpec) -> int:
    """H of an agent, from shapes alone."""

    def first_step() -> Any:
        params = agent.init(jax.random.key(0))
        return agent.unroll(params, agent.initial_carry(1), agents.zero_observed(spec, 1, 1))

    return jax.eval_shape(first_step)[2].shape[-1]
