"""JaxMARL's switch riddle (Foerster et al. 2016): a hundred prisoners and a light bulb.

State: all observations concatenated. Team reward: agent 0's (all agents receive the same).
`terminated` if the agent in the room announces that all have been there (action Tell); `truncated`
at the limit of 4 N - 6 steps.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import jax.numpy as jnp
from pydantic import Field

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.envs.jaxmarl import adapter
from qmix_jax.types import Array

_TELL = 2


class SwitchRiddleKwargs(config.Model):
    """JaxMARL keyword arguments that may be set; null is JaxMARL's default."""

    num_agents: Annotated[config.Int, Field(ge=3)] | None = None
    """N (3)."""
    initial_bulb_state: bool | None = None
    """Whether the light is on at first (false)."""
    reward_all_live: float | None = None
    """Reward for announcing after all agents have been in the room (1)."""
    reward_all_die: float | None = None
    """Reward for announcing too early (-1)."""


KWARGS = {"switch_riddle": SwitchRiddleKwargs}


def build(env_id: str, kwargs: Mapping[str, Any]) -> tuple[Any, adapter.Suite]:
    """Makes JaxMARL's environment and its `Suite`."""
    env = adapter.construct(env_id, kwargs)
    suite = adapter.Suite(
        max_steps=env.max_steps,
        state=adapter.concatenate_obs(env.agents),
        team_reward=base.first_agent,
        outcome=_outcome,
        metric_names=("win_rate",),
        agent_state=adapter.obs_columns(env),
        describe=_describe,
    )
    return env, suite


def _describe(frame: base.Frame) -> str:
    """Describes the last action in the room, who is there now, and the light."""
    state = frame.state
    visitors = [name for name, was in zip(frame.names, state.has_been, strict=True) if was]
    light = "on" if state.bulb_state else "off"
    lines = [f"{frame.names[int(state.agent_in_room)]} enters, the light is {light}"]
    if frame.actions is not None:
        agent = int(frame.previous_state.agent_in_room)
        action = int(frame.actions[agent])
        act = f"{frame.names[agent]} {('did nothing', 'pressed the switch', 'announced')[action]}"
        lines = [act] if action == _TELL else [act, *lines]
    return "\n".join([*lines, f"been in the room: {' '.join(visitors) or 'nobody'}"])


def _outcome(state: Any, next_state: Any, actions: Array) -> tuple[Array, dict[str, Array]]:
    """Only the agent who was in the room before the step can announce."""
    tells = actions[state.agent_in_room] == _TELL
    return tells, {"win_rate": tells & jnp.all(next_state.has_been == 1)}
