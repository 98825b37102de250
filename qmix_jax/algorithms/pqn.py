"""Trains agent and mixer without target network or replay (PQN-VDN, PQN-QMIX).

    G_t = r_t + gamma * (1 - terminated_t) * ((1 - l_t) * V_{t+1} + l_t * G_{t+1})
    V_t = f(max_a q(tau_t, a), s_t), with the online parameters

Each gradient step unrolls `q` once for loss and target; `l_t` is `hparams.td_lambda` inside an
episode. Sequences include the entry after their last step, so every step has a bootstrap.

Reference: Gallici et al. 2024 (PQN; with the sum as the mixer: PQN-VDN). Deviation: any mixer (with
a monotonic one V is the maximum of the joint value); no BatchNorm, and LayerNorm if agent and mixer
enable it.
"""

import jax

from qmix_jax import learner
from qmix_jax.agents import base as agents
from qmix_jax.algorithms import base
from qmix_jax.core import masked, qvalues
from qmix_jax.mixers import base as mixers
from qmix_jax.types import Array, Batch, EnvSpec, HParams

NEEDS = base.Needs(replay=("on_policy", "uniform", "prioritised", "transitions"))


class Config(base.TargetConfig):
    """Options of learning without a target network."""


def make(cfg: Config, spec: EnvSpec, components: base.Components) -> base.Algorithm:
    """Makes the algorithm. Raises: ValueError without a mixer."""
    mixer = components.mixer
    if mixer is None:
        raise ValueError("algo: algorithm 'pqn' needs a mixer; set algo.mixer.name")
    agent = components.agent(spec.actions.width)

    def loss(
        params: base.Params, target_params: base.Params, batch: Batch, hparams: HParams
    ) -> tuple[Array, learner.LossAux]:
        del target_params
        trajectory = batch.trajectory
        avail, state = trajectory.avail_actions, trajectory.state
        q = agents.unroll(agent, params["agent"], trajectory).head
        taken = mixers.inputs(q[:-1], avail[:-1], trajectory.actions, state[:-1])
        mixed = mixer.apply(params["mixer"], taken)
        fixed, q_next = jax.lax.stop_gradient((params["mixer"], q[1:]))

        def value_next(actions: Array) -> Array:
            return mixer.apply(fixed, mixers.inputs(q_next, avail[1:], actions, state[1:])).q_tot

        best = qvalues.greedy(q_next, avail[1:])
        target = base.target(cfg, batch, hparams, best, value_next)
        td_loss, aux = base.td_loss(cfg, mixed.q_tot, target, batch, hparams)
        return td_loss + masked.mean(mixed.penalty, trajectory.valid), aux

    return base.q_learning(
        agent,
        components.optimiser,
        parts=("agent", "mixer"),
        targets=(),
        init=base.init_agent_and_mixer(agent, mixer),
        loss=loss,
        inspect=base.inspect_mixed(agent, mixer),
        needs=NEEDS,
    )
