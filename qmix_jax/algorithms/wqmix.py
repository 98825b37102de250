"""Weighted QMIX: fits a monotonic joint value to an unrestricted one with weights.

    y    = r + gamma * (1 - terminated) * Q*^-(s', best'),  best' = argmax_a q(tau', a)
    loss = w * (Q_tot(u) - y)^2 + (Q*(u) - y)^2
    w    = 1 where `centrally`:      u is best for every agent, or y > Q*^-(s, best)
                   `optimistically`: Q_tot(u) < y
           alpha elsewhere

Q* is a network of the state and the values of the taken actions, one per agent, which come from
separate recurrent agents. `best` is greedy in the utilities: it stands in for the unknown best
joint action.

Reference: Rashid et al. 2020 (CW-QMIX, OW-QMIX). Deviation: any monotonic mixer; the target may be
Q(lambda), see `base.target`; priorities are errors of Q*, since those of Q_tot need not vanish; the
network of Q* stays in f32 with `precision=bfloat16`.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from qmix_jax import config, learner
from qmix_jax.agents import base as agents
from qmix_jax.algorithms import base
from qmix_jax.core import masked, qvalues
from qmix_jax.critics import base as critics
from qmix_jax.critics import central as central_critic
from qmix_jax.mixers import base as mixers
from qmix_jax.types import Array, Batch, EnvSpec, HParams, Observed, Trajectory

NEEDS = base.Needs()


class Config(base.TargetConfig):
    """Options of weighted QMIX; the online network always selects the next actions."""

    weighting: Literal["centrally", "optimistically"] = "centrally"
    """Errors of weight 1: of joint actions that may be the best, or underestimates."""
    central_hidden: config.PositiveInt = 256
    """Width of the hidden layers of Q*."""
    central_layers: config.PositiveInt = 3
    """Number of hidden layers of Q*."""


class Coefficients(config.Model):
    """Coefficients of weighted QMIX, `hparams.algo`; alpha 1 is QMIX with the targets of Q*."""

    alpha: config.Fraction = 0.1


class _WeightInputs(NamedTuple):
    """Inputs of the weighting, f32[T, B] each, `all_best` bool[T, B]."""

    target: Array
    q_tot: Array
    q_star_best: Array
    all_best: Array


_HAS_FULL_WEIGHT = {
    "centrally": lambda x: x.all_best | (x.target > x.q_star_best),
    "optimistically": lambda x: x.q_tot < x.target,
}


class _WQMIXNetworks(NamedTuple):
    """The networks, and pure functions of their parameters."""

    cfg: Config
    agent: agents.Agent
    mixer: mixers.Mixer
    central: critics.Critic

    def init(self, key: Array) -> base.Params:
        """`Algorithm.init`."""
        keys = jax.random.split(key, 4)
        return {
            "agent": self.agent.init(keys[0]),
            "mixer": self.mixer.init(keys[1]),
            "central_agent": self.agent.init(keys[2]),
            "central": self.central.init(keys[3]),
        }

    def initial_carry(self, batch_size: int) -> base.Carry:
        """`Algorithm.initial_carry`: the central agents learn but do not act."""
        return {name: self.agent.initial_carry(batch_size) for name in ("act", "learn")}

    def accompany(
        self, params: base.Params, carry: base.Carry, observed: Observed, state: Array
    ) -> base.Carry:
        """`Algorithm.accompany`: steps the central agents."""
        del state
        return agents.step(self.agent, params["central_agent"], carry, observed)[0]

    def q_star(self, params: base.Params, q_taken: Array, state: Array) -> Array:
        """Returns Q*, f32[...], of values `q_taken` f32[..., N]."""
        inputs = critics.CriticInputs(state=state, q_taken=q_taken)
        return self.central.apply(params["central"], inputs)[..., 0]

    def loss(
        self, params: base.Params, target_params: base.Params, batch: Batch, hparams: HParams
    ) -> tuple[Array, learner.LossAux]:
        """The loss of the module's docstring."""
        cfg, trajectory = self.cfg, batch.trajectory
        actions, avail, state = trajectory.actions, trajectory.avail_actions, trajectory.state
        q = agents.unroll(self.agent, params["agent"], trajectory).head
        central_params = params["central_agent"], target_params["central_agent"]
        online, frozen = agents.unroll_pair(self.agent, *central_params, trajectory, carry="learn")
        best = qvalues.greedy(q, avail)

        def next_value(actions: Array) -> Array:
            return self.q_star(target_params, qvalues.take(frozen.head[1:], actions), state[1:])

        target = base.target(cfg, batch, hparams, best[1:], next_value)
        inputs = mixers.inputs(q[:-1], avail[:-1], actions, state[:-1])
        mixed = self.mixer.apply(params["mixer"], inputs)
        q_best = qvalues.take(frozen.head[:-1], best[:-1])
        weight_inputs = _WeightInputs(
            target=target,
            q_tot=mixed.q_tot,
            q_star_best=self.q_star(target_params, q_best, state[:-1]),
            all_best=jnp.all(actions == best[:-1], axis=-1),
        )
        is_full = _HAS_FULL_WEIGHT[cfg.weighting](weight_inputs)
        weight = jnp.where(is_full, 1.0, hparams.algo["alpha"])
        monotonic, aux = base.td_loss(cfg, mixed.q_tot, target, batch, hparams, weight)

        value = self.q_star(params, qvalues.take(online.head[:-1], actions), state[:-1])
        central, central_aux = base.td_loss(cfg, value, target, batch, hparams)
        total = monotonic + masked.mean(mixed.penalty, trajectory.valid) + central
        parts = {"loss": total, "loss_monotonic": monotonic, "loss_central": central}
        metrics = {name: (part, jnp.ones(())) for name, part in parts.items()}
        metrics["weight"] = masked.total(weight, trajectory.valid)
        metrics = {**aux.metrics, **metrics}
        return total, learner.LossAux(metrics=metrics, priority=central_aux.priority)

    def inspect(self, params: base.Params, trajectory: Trajectory) -> dict[str, Array]:
        """`Algorithm.inspect`."""
        unrolled = agents.unroll(self.agent, params["central_agent"], trajectory, carry="learn")
        q_taken = qvalues.take(unrolled.head[:-1], trajectory.actions)
        mixed = base.inspect_mixed(self.agent, self.mixer)(params, trajectory)
        return {**mixed, "q_joint": self.q_star(params, q_taken, trajectory.state[:-1])}


def make(cfg: Config, spec: EnvSpec, components: base.Components) -> base.Algorithm:
    """Makes the algorithm. Raises: ValueError without a monotonic mixer."""
    mixer = components.mixer
    if mixer is None or not mixer.monotonic:
        raise ValueError("algo: algorithm 'wqmix' needs a monotonic mixer; set algo.mixer.name")
    agent = components.agent(spec.actions.width)
    central = central_critic.make(spec, cfg.central_hidden, cfg.central_layers)
    networks = _WQMIXNetworks(cfg, agent, mixer, central)
    algorithm = base.q_learning(
        agent,
        components.optimiser,
        parts=("agent", "mixer", "central_agent", "central"),
        targets=("central_agent", "central"),
        init=networks.init,
        loss=networks.loss,
        inspect=networks.inspect,
        needs=NEEDS,
    )
    return algorithm._replace(initial_carry=networks.initial_carry, accompany=networks.accompany)
