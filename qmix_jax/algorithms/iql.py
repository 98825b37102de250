"""Independent Q-learning: each agent learns its own utility from the team reward.

    y_{i,t} = r_t + gamma * (1 - terminated_t) * q_i^-(tau_{t+1}, argmax_a q_i(tau_{t+1}, a))

With `hparams.td_lambda` > 0 the target is Q(lambda); see `base.target`.

Reference: Tan 1993; Tampuu et al. 2017; the baseline of Rashid et al. 2018. Deviation: none (the
loss is averaged over valid steps and agents).
"""

from qmix_jax import learner
from qmix_jax.agents import base as agents
from qmix_jax.algorithms import base
from qmix_jax.core import qvalues
from qmix_jax.types import Array, Batch, EnvSpec, HParams, Trajectory

NEEDS = base.Needs()


class Config(base.TDConfig):
    """Options of independent Q-learning."""


def make(cfg: Config, spec: EnvSpec, components: base.Components) -> base.Algorithm:
    """Makes the algorithm. Raises: ValueError with a mixer."""
    if components.mixer is not None:
        raise ValueError("algo: algorithm 'iql' has no joint value; set algo.mixer=null")
    agent = components.agent(spec.actions.width)

    def loss(
        params: base.Params, target_params: base.Params, batch: Batch, hparams: HParams
    ) -> tuple[Array, learner.LossAux]:
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

    def inspect(params: base.Params, trajectory: Trajectory) -> dict[str, Array]:
        return {"utilities": agents.unroll(agent, params["agent"], trajectory).head[:-1]}

    return base.q_learning(
        agent,
        components.optimiser,
        parts=("agent",),
        targets=("agent",),
        init=lambda key: {"agent": agent.init(key)},
        loss=loss,
        inspect=inspect,
        needs=NEEDS,
    )
