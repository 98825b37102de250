"""JaxMARL's cooperative particle environments (Lowe et al. 2017) with discrete actions.

State: the agents' observations in a row, unpadded. Team reward: the sum over agents. They have no
end but the time limit, so episodes are `truncated`, after `max_steps + 1` env steps: JaxMARL tests
its limit before it counts the step.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
from pydantic import Field

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.envs.jaxmarl import adapter
from qmix_jax.types import Array


class MPEKwargs(config.Model):
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


class SimpleKwargs(MPEKwargs):
    """Those of `MPE_simple_v3`."""

    num_agents: config.PositiveInt | None = None
    """N (1)."""
    num_landmarks: config.PositiveInt | None = None
    """(1)."""


class ReferenceKwargs(MPEKwargs):
    """Those of `MPE_simple_reference_v3`."""

    local_ratio: config.Fraction | None = None
    """Weight of an agent's own reward against the team's (0.5)."""


class SpreadKwargs(SimpleKwargs, ReferenceKwargs):
    """Those of `MPE_simple_spread_v3`; three agents and three landmarks by default."""


_KWARGS: dict[str, type[MPEKwargs]] = {
    "MPE_simple_v3": SimpleKwargs,
    "MPE_simple_spread_v3": SpreadKwargs,
    "MPE_simple_speaker_listener_v4": MPEKwargs,
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
        team_reward=base.summed,
        outcome=adapter.time_limit,
        agent_state=adapter.own_columns(env),
        scene=_scene(env_id, env),
    )
    return env, suite


def _scene(env_id: str, env: Any) -> base.Scene:
    """Agents first, then landmarks; `message` is what each agent says (-1: nothing), `goal` the
    landmark that each agent is to reach (-1: any).
    """
    n = env.num_agents
    talks = np.asarray(env.silent) == 0
    goals = {
        "MPE_simple_reference_v3": lambda state: state.goal,
        "MPE_simple_speaker_listener_v4": lambda state: jnp.stack([-1, state.goal]),
    }

    def look(state: Any) -> dict[str, Array]:
        said = jnp.where(talks & state.c.any(axis=1), jnp.argmax(state.c, axis=1), -1)
        nowhere = jnp.full((n,), -1, jnp.int32)
        return {
            "place": state.p_pos,
            "message": said,
            "goal": goals.get(env_id, lambda _: nowhere)(state).astype(jnp.int32),
        }

    facts = {"agents": n, "radii": np.asarray(env.rad), "talk": talks}
    return base.Scene("particles", look, facts)
