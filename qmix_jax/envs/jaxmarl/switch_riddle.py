"""JaxMARL's switch riddle (Foerster et al. 2016): a hundred prisoners and a light bulb.

State: the agents' observations in a row. Team reward: agent 0's (all agents get the same).
`terminated` if the agent in the room told; `truncated` at the limit of 4 N - 6 steps.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import jax.numpy as jnp
from pydantic import Field

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.envs.jaxmarl import adapter
from qmix_jax.types import Array

IDS = ("switch_riddle",)
_TELL = 2


class SwitchRiddleKwargs(config.Model):
    """JaxMARL keyword arguments that may be set; null is JaxMARL's default."""

    num_agents: Annotated[config.Int, Field(ge=3)] | None = None
    """N (3)."""
    initial_bulb_state: bool | None = None
    """Is the light on at first (false)?"""
    reward_all_live: float | None = None
    """Reward for telling after all have been in the room (1)."""
    reward_all_die: float | None = None
    """Reward for telling too early (-1)."""


def kwargs_model(env_id: str) -> type[config.Model]:
    """The model of the keyword arguments of `env_id`."""
    del env_id
    return SwitchRiddleKwargs


def build(env_id: str, kwargs: Mapping[str, Any]) -> tuple[Any, adapter.Suite]:
    """JaxMARL's environment and how to read it."""
    env = adapter.construct(env_id, kwargs)
    suite = adapter.Suite(
        max_steps=env.max_steps,
        state=adapter.concatenated(env.agents),
        team_reward=base.first_agent,
        outcome=_outcome,
        metric_names=("win_rate",),
        agent_state=adapter.own_columns(env),
        describe=_describe,
    )
    return env, suite


def _describe(shot: base.Frame) -> str:
    """Who was in the room and did what; who is there now, and whether the light is on."""
    state, before = shot.state, shot.before
    been = " ".join(name for name, was in zip(shot.names, state.has_been, strict=True) if was)
    light = "on" if state.bulb_state else "off"
    lines = [f"{shot.names[int(state.agent_in_room)]} enters, the light is {light}"]
    if shot.actions is not None:
        there = int(before.agent_in_room)
        action = int(shot.actions[there])
        did = f"{shot.names[there]} {('did nothing', 'pressed the switch', 'told')[action]}"
        lines = [did] if action == _TELL else [did, *lines]
    return "\n".join([*lines, f"been in the room: {been or 'nobody'}"])


def _outcome(before: Any, after: Any, actions: Array) -> tuple[Array, dict[str, Array]]:
    """Telling is the act of the agent who was in the room before the step."""
    told = actions[before.agent_in_room] == _TELL
    return told, {"win_rate": told & jnp.all(after.has_been == 1)}
