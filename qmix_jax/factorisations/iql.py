"""Independent Q-learning: every agent regresses its own utility on the team reward.

    y_{i,t} = r_t + gamma * (1 - terminated_t) * q_i^-(tau_{t+1}, argmax_a q_i(tau_{t+1}, a))

With `hparams.td_lambda` above 0 the target is a Q(lambda); see `base.target`.

Reference: Tan 1993; Tampuu et al. 2017; the baseline of Rashid et al. 2018. Deviation: none (the
loss is averaged over valid steps and agents).
"""

from qmix_jax.agents import base as agents
from qmix_jax.core import qvalues
from qmix_jax.factorisations import base
from qmix_jax.mixers import base as mixers
from qmix_jax.types import Array, Batch, EnvSpec, HParams


class Config(base.TDConfig):
    """Options of independent Q-learning."""


def make(
    cfg: Config, spec: EnvSpec, agent: agents.Agent, mixer: mixers.Mixer | None
) -> base.Factorisation:
    """The factorisation.

    Raises: ValueError with a mixer.
    """
    del spec
    if mixer is not None:
        raise ValueError("algo: factorisation 'iql' has no joint value; set algo.mixer=null")

    def init(key: Array) -> base.Params:
        return {"agent": agent.init(key)}

    def loss(
        params: base.Params, target_params: base.Params, batch: Batch, hparams: HParams, key: Array
    ) -> tuple[Array, base.Extras]:
        del key
        trajectory = batch.trajectory
        values = base.next_values(cfg, agent, params["agent"], target_params["agent"], batch)
        taken = qvalues.take(values.q, trajectory.actions)
        target = base.target(
            cfg,
            batch,
            hparams,
            values.next_actions,
            lambda actions: qvalues.take(values.q_next, actions),
            independent=True,
        )
        return base.td_loss(cfg, taken, target, batch, hparams)

    return base.Factorisation(
        init=init,
        initial_carry=agent.initial_carry,
        act=base.make_act(agent, lambda params: params["agent"]),
        loss=loss,
        utilities=base.make_utilities(agent, lambda params: params["agent"]),
        joint_values=None,
        uses_target=True,
    )
