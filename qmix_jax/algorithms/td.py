"""Trains agent and mixer with double-Q temporal differences of the joint value (VDN, QMIX).

    y_t = r_t + gamma * (1 - terminated_t) * f^-(q^-(tau_{t+1}, argmax_a q(tau_{t+1}, a)), s_{t+1})

With `hparams.td_lambda` > 0 the target is Q(lambda); see `base.target`.

Reference: Rashid et al. 2018 (QMIX), section 4. Deviation: time limits are bootstrapped through
unless `trainer.truncation=terminate`; the loss has no factor 1/2 (as in PyMARL).
"""

from qmix_jax import learner
from qmix_jax.algorithms import base
from qmix_jax.core import masked
from qmix_jax.mixers import base as mixers
from qmix_jax.types import Array, Batch, EnvSpec, HParams

NEEDS = base.Needs()


class Config(base.TDConfig):
    """Options of temporal-difference learning with a mixer."""


def make(cfg: Config, spec: EnvSpec, components: base.Components) -> base.Algorithm:
    """Makes the algorithm. Raises: ValueError without a mixer."""
    mixer = components.mixer
    if mixer is None:
        raise ValueError(
            "algo: algorithm 'td' needs a mixer; set algo.mixer.name, or use 'iql' without one"
        )
    agent = components.agent(spec.actions.width)

    def loss(
        params: base.Params, target_params: base.Params, batch: Batch, hparams: HParams
    ) -> tuple[Array, learner.LossAux]:
        trajectory = batch.trajectory
        values = base.next_values(cfg, agent, params["agent"], target_params["agent"], batch)
        avail, state = trajectory.avail_actions, trajectory.state
        taken = mixers.inputs(values.q, avail[:-1], trajectory.actions, state[:-1])
        mixed = mixer.apply(params["mixer"], taken)

        def value_next(actions: Array) -> Array:
            following = mixers.inputs(values.q_next, avail[1:], actions, state[1:])
            return mixer.apply(target_params["mixer"], following).q_tot

        target = base.target(cfg, batch, hparams, values.next_actions, value_next)
        td_loss, aux = base.td_loss(cfg, mixed.q_tot, target, batch, hparams)
        return td_loss + masked.mean(mixed.penalty, trajectory.valid), aux

    return base.q_learning(
        agent,
        components.optimiser,
        parts=("agent", "mixer"),
        targets=("agent", "mixer"),
        init=base.init_agent_and_mixer(agent, mixer),
        loss=loss,
        inspect=base.inspect_mixed(agent, mixer),
        needs=NEEDS,
    )
