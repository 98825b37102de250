"""Agent and mixer trained by double-Q temporal differences on the joint value (VDN, QMIX).

    y_t = r_t + gamma * (1 - terminated_t) * f^-(q^-(tau_{t+1}, argmax_a q(tau_{t+1}, a)), s_{t+1})

With `hparams.td_lambda` above 0 the target is Peng's Q(lambda).

Reference: Rashid et al. 2018 (QMIX), section 4. Deviation: time limits are bootstrapped through
unless `trainer.truncation` says otherwise; the loss has no factor 1/2 (as PyMARL's).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from qmix_jax.agents import base as agents
from qmix_jax.core import masked, qvalues
from qmix_jax.factorisations import base
from qmix_jax.mixers import base as mixers
from qmix_jax.types import Array, Batch, EnvSpec, HParams


class Config(base.TDConfig):
    """Options of agent-and-mixer learning."""


def make(
    cfg: Config, spec: EnvSpec, agent: agents.Agent, mixer: mixers.Mixer | None
) -> base.Factorisation:
    """The factorisation.

    Raises: ValueError without a mixer.
    """
    if mixer is None:
        raise ValueError(
            "algo: factorisation 'td' needs a mixer; set algo.mixer.name, or use 'iql' without one"
        )
    n_actions = spec.n_actions_max

    def init(key: Array) -> base.Params:
        key_agent, key_mixer = jax.random.split(key)
        return {"agent": agent.init(key_agent), "mixer": mixer.init(key_mixer)}

    def loss(
        params: base.Params, target_params: base.Params, batch: Batch, hparams: HParams, key: Array
    ) -> tuple[Array, base.Extras]:
        del key
        trajectory = batch.trajectory
        values = base.next_values(cfg, agent, params["agent"], target_params["agent"], batch)
        q_greedy = jnp.max(jnp.where(trajectory.avail_actions[:-1], values.q, -jnp.inf), axis=-1)
        taken = mixers.MixerInputs(
            q_taken=qvalues.take(values.q, trajectory.actions),
            q_greedy=q_greedy,
            actions=jax.nn.one_hot(trajectory.actions, n_actions),
            state=trajectory.state[:-1],
        )
        following = mixers.MixerInputs(
            q_taken=values.q_next,
            q_greedy=values.q_next_greedy,
            actions=jax.nn.one_hot(values.next_actions, n_actions),
            state=trajectory.state[1:],
        )
        mixed = mixer.apply(params["mixer"], taken)
        value_next = mixer.apply(target_params["mixer"], following).q_tot
        target = base.target(batch, value_next, hparams)
        td_loss, extras = base.td_loss(cfg, mixed.q_tot, target, batch, hparams)
        return td_loss + masked.mean(mixed.penalty, trajectory.valid), extras

    return base.Factorisation(
        init=init,
        initial_carry=agent.initial_carry,
        act=base.make_act(agent, lambda params: params["agent"]),
        loss=loss,
        utilities=base.make_utilities(agent, lambda params: params["agent"]),
        joint_values=_make_joint_values(agent, mixer, n_actions),
        uses_target=True,
    )


def _make_joint_values(agent: agents.Agent, mixer: mixers.Mixer, n_actions: int) -> Callable:
    utilities = base.make_utilities(agent, lambda params: params["agent"])

    def joint_values(
        params: base.Params, obs: Array, state: Array, avail_actions: Array, actions: Array
    ) -> Array:
        q = jnp.broadcast_to(utilities(params, obs), (len(actions), len(obs), n_actions))
        inputs = mixers.MixerInputs(
            q_taken=qvalues.take(q, actions),
            q_greedy=jnp.max(jnp.where(avail_actions[None], q, -jnp.inf), axis=-1),
            actions=jax.nn.one_hot(actions, n_actions),
            state=jnp.broadcast_to(state, (len(actions), len(state))),
        )
        return mixer.apply(params["mixer"], inputs).q_tot

    return joint_values
