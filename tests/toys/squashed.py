"""Continuous actions: each agent's is the tanh of its network, in the box."""

from typing import Any

import jax.numpy as jnp

from qmix_jax.agents import base as agents
from qmix_jax.factorisations import base, iql
from qmix_jax.types import Array, Box, EnvSpec, Observed

NEEDS = base.Needs(actions=(Box,))


class Config(iql.Config):
    """Options."""


def make(cfg: Config, spec: EnvSpec, components: base.Components) -> base.Algorithm:
    """Acts; it does not learn."""
    agent, box = components.agent(spec.actions.width), spec.actions
    assert isinstance(box, Box)

    def act(
        params: Any, carry: Any, seen: Observed, explore: base.Exploration, key: Array
    ) -> tuple[Any, Array, dict[str, Any]]:
        del explore, key
        carry, head, _ = agents.step(agent, params["agent"], carry, seen)
        middle, half = (box.high + box.low) / 2, (box.high - box.low) / 2
        return carry, middle + half * jnp.tanh(head), {}

    return iql.make(cfg, spec, components)._replace(needs=NEEDS, act=act, greedy={}, head="tanh")
