"""QTRAN: an unrestricted joint value Q_jt that a sum of utilities matches at its greedy action.

    y      = r + gamma * (1 - terminated) * Q_jt^-(s', argmax_a q(tau', a))
    L_td   = (Q_jt(u) - y)^2
    L_opt  = (sum_i q_i(best_i) + V_jt(s) - Q_jt(best))^2        Q_jt without gradient, V_jt with
    L_nopt = base: min(sum_i q_i(u_i) + V_jt(s) - Q_jt(u), 0)^2
             alt:  mean_i (min_v q_i(v) + sum_{j != i} q_j(u_j) + V_jt(s) - Q_jt_i(v, u_{-i}))^2
    loss   = L_td + lambda_opt * L_opt + lambda_nopt * L_nopt

Q_jt takes the state and the sum over agents of encoded hidden states and actions, so that L_td also
trains the agents' recurrent layers. In `alt`, agent i has a head with a value for each of its
actions v given the others' u_{-i}; L_td and L_opt are means over the heads of all agents.

Reference: Son et al. 2019; networks as in PyMARL (`base`) and the common PyTorch code of `alt`,
whose heads take the agent's id, all encoded hidden states and the others' encoded actions.
Deviation: V_jt, which the paper's fully observed states do not need (as in PyMARL);
L_opt uses the online Q_jt; the target may be Q(lambda), see `base.target`; critics stay in f32 with
`precision=bfloat16`.
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
    """Constraint on non-greedy actions: `base` bounds the executed joint action from below; `alt`
    requires equality for the tightest of each agent's alternatives."""
    hidden: config.PositiveInt = 64
    """Width of the hidden layers of Q_jt and V_jt."""
    layers: config.PositiveInt = 2
    """Number of hidden layers of Q_jt and V_jt."""


class Coefficients(config.Model):
    """Coefficients of QTRAN, `hparams.algo`; with lambda_nopt 0.1 (PyMARL) it fails on games whose
    penalties hide the optimum."""

    lambda_opt: Annotated[float, Field(ge=0)] = 1.0
    lambda_nopt: Annotated[float, Field(ge=0)] = 1.0


class _Variant(NamedTuple):
    """The functions that differ between variants; K is 1 or the number of agents.

    Attributes:
      critic: makes Q_jt, whose `heads` are f32[..., 1] or f32[..., N, A].
      taken: `(heads, actions i32[..., N]) -> f32[..., K]`, Q_jt of the actions.
      violation: `(q f32[..., N, A], v f32[..., 1], heads, actions, avail_actions) -> f32[..., K]`,
        squared in L_nopt.
    """

    critic: Callable[..., critics.Critic]
    taken: Callable[[Array, Array], Array]
    violation: Callable[[Array, Array, Array, Array, Array], Array]


def _joint_violation(q: Array, v: Array, q_jt: Array, actions: Array, avail: Array) -> Array:
    del avail
    return jnp.minimum(_sum_taken(q, actions) + v - q_jt, 0.0)


def _smallest_gap(q: Array, v: Array, q_jt: Array, actions: Array, avail: Array) -> Array:
    others = _sum_taken(q, actions) - qvalues.take(q, actions)
    gap = q + (others + v)[..., None] - q_jt
    return jnp.min(jnp.where(avail, gap, jnp.inf), axis=-1)


def _sum_taken(q: Array, actions: Array) -> Array:
    """(q f32[..., N, A], actions i32[..., N]) -> f32[..., 1]."""
    return jnp.sum(qvalues.take(q, actions), axis=-1, keepdims=True)


_VARIANTS = {
    "base": _Variant(joint.make, lambda heads, actions: heads, _joint_violation),
    "alt": _Variant(counterfactual.make, qvalues.take, _smallest_gap),
}


class _QTRANNetworks(NamedTuple):
    """The networks, and pure functions of their parameters."""

    cfg: Config
    spec: EnvSpec
    agent: agents.Agent
    critic: critics.Critic
    state_critic: critics.Critic

    @property
    def variant(self) -> _Variant:
        """The configured variant."""
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
        """Returns the critic's outputs, f32[..., 1] or f32[..., N, A]."""
        one_hot = self.spec.actions.features(actions)
        inputs = critics.CriticInputs(state=state, hidden=hidden, actions=one_hot)
        return self.critic.apply(params["critic"], inputs)

    def q_jt(self, params: base.Params, hidden: Array, actions: Array, state: Array) -> Array:
        """Returns Q_jt of the actions, f32[..., K]."""
        return self.variant.taken(self.heads(params, hidden, actions, state), actions)

    def v_jt(self, params: base.Params, state: Array) -> Array:
        """Returns V_jt, f32[..., 1]."""
        return self.state_critic.apply(params["value"], critics.CriticInputs(state=state))

    def loss(
        self, params: base.Params, target_params: base.Params, batch: Batch, hparams: HParams
    ) -> tuple[Array, learner.LossAux]:
        """The loss of the module's docstring."""
        cfg, variant = self.cfg, self.variant
        trajectory, coefficients = batch.trajectory, hparams.algo
        values = base.next_values(cfg, self.agent, params["agent"], target_params["agent"], batch)
        state, actions, avail = trajectory.state[:-1], trajectory.actions, trajectory.avail_actions

        def next_value(actions: Array) -> Array:
            return self.q_jt(target_params, values.hidden_next, actions, trajectory.state[1:])

        target = base.target(cfg, batch, hparams, values.next_actions, next_value)
        heads = self.heads(params, values.hidden, actions, state)
        td, aux = base.td_loss(cfg, variant.taken(heads, actions), target, batch, hparams)

        best, v = qvalues.greedy(values.q, avail[:-1]), self.v_jt(params, state)
        q_best, heads = jax.lax.stop_gradient(
            (self.q_jt(params, values.hidden, best, state), heads)
        )
        opt = base.mean_cost(_sum_taken(values.q, best) + v - q_best, batch)
        violation = variant.violation(values.q, v, heads, actions, avail[:-1])
        nopt = base.mean_cost(violation, batch)

        total = td + coefficients["lambda_opt"] * opt + coefficients["lambda_nopt"] * nopt
        parts = {"loss": total, "loss_td": td, "loss_opt": opt, "loss_nopt": nopt}
        metrics = {name: (part, jnp.ones(())) for name, part in parts.items()}
        return total, replace(aux, metrics={**aux.metrics, **metrics})

    def inspect(self, params: base.Params, trajectory: Trajectory) -> dict[str, Array]:
        """`Algorithm.inspect`."""
        outputs = agents.unroll(self.agent, params["agent"], trajectory)
        q, hidden = outputs.head[:-1], outputs.hidden[:-1]
        state, actions = trajectory.state[:-1], trajectory.actions
        return {
            "utilities": q,
            "q_tot": (_sum_taken(q, actions) + self.v_jt(params, state))[..., 0],
            "q_joint": jnp.mean(self.q_jt(params, hidden, actions, state), axis=-1),
        }


def make(cfg: Config, spec: EnvSpec, components: base.Components) -> base.Algorithm:
    """Makes the algorithm. Raises: ValueError with a mixer."""
    if components.mixer is not None:
        raise ValueError("algo: algorithm 'qtran' sums the utilities; set algo.mixer=null")
    agent = components.agent(spec.actions.width)
    make_critic = _VARIANTS[cfg.variant].critic
    networks = _QTRANNetworks(
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
        init=networks.init,
        loss=networks.loss,
        inspect=networks.inspect,
        needs=NEEDS,
    )


def _hidden_size(agent: agents.Agent, spec: EnvSpec) -> int:
    """H of an agent, from `jax.eval_shape`."""

    def first_step() -> Any:
        params = agent.init(jax.random.key(0))
        return agent.unroll(params, agent.initial_carry(1), agents.zero_observed(spec, 1, 1))

    return jax.eval_shape(first_step)[2].shape[-1]
