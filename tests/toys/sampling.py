"""Agents that sample: each draws from the softmax of its network over a temperature, also when it
does not explore. Variants say of themselves what is not so.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import config
from qmix_jax.agents import base as agents
from qmix_jax.algorithms import base, iql
from qmix_jax.core import qvalues, schedules
from qmix_jax.types import Array, Clock, EnvSpec, HParams, Observed

NEEDS = iql.NEEDS


class Config(iql.Config):
    """Options."""

    temperature: config.PositiveFloat = 1.0
    """Of acting without exploration; exploring adds `hparams.epsilon` to it."""
    act: Literal["sample", "argmin"] = "sample"
    """argmin: the worst available action instead."""
    head: Literal["sample", "argmax", "none"] = "sample"
    """What the algorithm says of its head, true or not."""


def make(cfg: Config, spec: EnvSpec, components: base.Components) -> base.Algorithm:
    """Learns as independent Q-learning does, on each agent's utilities."""
    agent = components.agent(spec.actions.width)

    def act(
        params: Any, carry: Any, seen: Observed, explore: base.Exploration, key: Array
    ) -> tuple[Any, Array, dict[str, Any]]:
        carry, head, _ = agents.step(agent, params["agent"], carry, seen)
        if cfg.act == "argmin":
            return carry, qvalues.greedy(-head, seen.avail_actions), {}
        logits = jnp.where(seen.avail_actions, head / explore["temperature"], -jnp.inf)
        return carry, jax.random.categorical(key, logits).astype(jnp.int32), {}

    def exploration(hparams: HParams, clock: Clock) -> base.Exploration:
        extra = schedules.linear(hparams.epsilon, clock.env_steps)
        return {"temperature": cfg.temperature + extra}

    return iql.make(cfg, spec, components)._replace(
        act=act,
        exploration=exploration,
        greedy={"temperature": np.float32(cfg.temperature)},
        head=None if cfg.head == "none" else cfg.head,
    )
