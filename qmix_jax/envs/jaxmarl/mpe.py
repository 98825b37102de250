"""JaxMARL's cooperative particle environments (Lowe et al. 2017) with discrete actions.

State: the agents' observations in a row, unpadded. Team reward: the sum over agents. They have no
end but the time limit, so episodes are `truncated`, after `max_steps + 1` env steps: JaxMARL tests
its limit before it counts the step.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax.numpy as jnp
from pydantic import Field

from qmix_jax import config
from qmix_jax.envs.jaxmarl import adapter


class Kwargs(config.Model):
    """JaxMARL keyword arguments that may be set; null is JaxMARL's default."""

    action_type: Literal["Discrete"] | None = None
    """Continuous actions are refused: Q-learning needs a finite set."""
    max_steps: config.PositiveInt | None = None
    """JaxMARL's limit (25); episodes have one env step more."""
    dt: config.PositiveFloat | None = None
    """Seconds per env step (0.1)."""
    damping: config.Fraction | None = None
    """Share of the velocity lost per env step (0.25)."""
    contact_force: Annotated[float, Field(ge=0)] | None = None
    """Strength of collisions (100)."""
    contact_margin: config.PositiveFloat | None = None
    """Softness of collisions (0.001)."""


class SimpleKwargs(Kwargs):
    """Those of `MPE_simple_v3`."""

    num_agents: config.PositiveInt | None = None
    """N (1)."""
    num_landmarks: config.PositiveInt | None = None
    """(1)."""


class ReferenceKwargs(Kwargs):
    """Those of `MPE_simple_reference_v3`."""

    local_ratio: config.Fraction | None = None
    """Weight of an agent's own reward against the team's (0.5)."""


class SpreadKwargs(SimpleKwargs, ReferenceKwargs):
    """Those of `MPE_simple_spread_v3`; three agents and three landmarks by default."""


_KWARGS: dict[str, type[Kwargs]] = {
    "MPE_simple_v3": SimpleKwargs,
    "MPE_simple_spread_v3": SpreadKwargs,
    "MPE_simple_speaker_listener_v4": Kwargs,
    "MPE_simple_reference_v3": ReferenceKwargs,
}
IDS = tuple(_KWARGS)


def kwargs_model(env_id: str) -> type[config.Model]:
    """The model of the keyword arguments of `env_id` (JaxMARL itself ignores unknown ones)."""
    return _KWARGS[env_id]


def build(env_id: str, kwargs: Mapping[str, Any]) -> tuple[Any, adapter.Suite]:
    """JaxMARL's environment and how to read it."""
    env = adapter.construct(env_id, kwargs)
    suite = adapter.Suite(
        max_steps=env.max_steps + 1,
        state=adapter.concatenated(env.agents),
        team_reward=jnp.sum,
        outcome=adapter.time_limit,
        agent_state=adapter.own_columns(env),
    )
    return env, suite
