"""JaxMARL's cooperative particle environments (Lowe et al. 2017) with discrete actions.

State: all observations concatenated, unpadded. Team reward: the sum over agents. Episodes end only
at the time limit, so they are `truncated`, after `max_steps + 1` env steps: JaxMARL tests its limit
before it counts the step.
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
    """JaxMARL's limit (25); episodes are one env step longer."""
    dt: config.PositiveFloat | None = None
    """Seconds per env step (0.1)."""
    damping: config.Fraction | None = None
    """Share of the velocity lost per env step (0.25)."""
    contact_force: Annotated[float, Field(ge=0)] | None = None
    """Strength of collisions (100)."""
    contact_margin: config.PositiveFloat | None = None
    """Softness of collisions (0.001)."""


class SimpleKwargs(MPEKwargs):
    """Keyword arguments of `MPE_simple_v3`."""

    num_agents: config.PositiveInt | None = None
    """N (1)."""
    num_landmarks: config.PositiveInt | None = None
    """(1)."""


class ReferenceKwargs(MPEKwargs):
    """Keyword arguments of `MPE_simple_reference_v3`."""

    local_ratio: config.Fraction | None = None
    """Weight of each agent's local reward against the team's (0.5)."""


class SpreadKwargs(SimpleKwargs, ReferenceKwargs):
    """Keyword arguments of `MPE_simple_spread_v3`; by default three agents and three landmarks."""


KWARGS: dict[str, type[MPEKwargs]] = {
    "MPE_simple_v3": SimpleKwargs,
    "MPE_simple_spread_v3": SpreadKwargs,
    "MPE_simple_speaker_listener_v4": MPEKwargs,
    "MPE_simple_reference_v3": ReferenceKwargs,
}
"""Environment -> the keyword arguments it takes; JaxMARL itself ignores unknown ones."""


def build(env_id: str, kwargs: Mapping[str, Any]) -> tuple[Any, adapter.Suite]:
    """Makes JaxMARL's environment and its `Suite`."""
    env = adapter.construct(env_id, kwargs)
    suite = adapter.Suite(
        max_steps=env.max_steps + 1,
        state=adapter.concatenate_obs(env.agents),
        team_reward=base.sum_over_agents,
        outcome=adapter.never_terminates,
        agent_state=adapter.obs_columns(env),
        scene=_scene(env_id, env),
    )
    return env, suite


def _scene(env_id: str, env: Any) -> base.Scene:
    """Agents first, then landmarks; `message` is each agent's message (-1: none), `goal` is the
    landmark that each agent must reach (-1: any).
    """
    n_agents = env.num_agents
    talks = np.asarray(env.silent) == 0
    goals = {
        "MPE_simple_reference_v3": lambda state: state.goal,
        "MPE_simple_speaker_listener_v4": lambda state: jnp.stack([-1, state.goal]),
    }

    def arrays(state: Any) -> dict[str, Array]:
        any_landmark = jnp.full((n_agents,), -1, jnp.int32)
        return {
            "place": state.p_pos,
            "message": jnp.where(talks & state.c.any(axis=1), jnp.argmax(state.c, axis=1), -1),
            "goal": goals.get(env_id, lambda _: any_landmark)(state).astype(jnp.int32),
        }

    constants = {"agents": n_agents, "radii": np.asarray(env.rad), "talk": talks}
    return base.Scene("particles", arrays, constants)
