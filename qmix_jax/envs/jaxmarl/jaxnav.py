"""JaxMARL's JaxNav (Rutherford et al. 2024): robots with lidar drive to goals on random maps.

Actions: JaxMARL's 15 discrete pairs of speed and turn (its default is continuous). Team reward: the
sum over robots, in which JaxMARL's mixing of individual and mean rewards cancels. `terminated` when
every robot has reached its goal or crashed, `truncated` at the limit. Metric `win_rate`: all robots
reached their goals.

State: per robot position, goal, heading, velocity, and whether it arrived or crashed; then the map
cells inside the border.

Deviation: JaxMARL's state repeats every observation instead.
"""

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
from pydantic import Field

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.envs.jaxmarl import adapter
from qmix_jax.types import Array

_ROBOT_COLUMNS = 10


class JaxNavKwargs(config.Model):
    """JaxMARL keyword arguments that may be set; null is JaxMARL's default."""

    act_type: Literal["Discrete"] | None = None
    """Continuous actions are refused: Q-learning needs a finite set."""
    num_agents: config.PositiveInt | None = None
    """Robots (2)."""
    map_size: Annotated[config.Int, Field(ge=5)] | None = None
    """Cells per side of the square map, border included (11)."""
    fill: config.Fraction | None = None
    """Largest fraction of cells that are walls (0.3)."""
    max_steps: config.PositiveInt | None = None
    """Limit on env steps per episode (500)."""
    lidar_num_beams: config.PositiveInt | None = None
    """Lidar beams per robot (200)."""
    goal_radius: config.PositiveFloat | None = None
    """Distance at which a goal is reached, in cells (0.5)."""
    goal_rew: float | None = None
    """Reward for reaching a goal (4)."""
    coll_rew: float | None = None
    """Reward for a collision (-4)."""
    dt_rew: float | None = None
    """Reward per step before reaching the goal (-0.01)."""
    weight_g: float | None = None
    """Reward per cell of progress towards the goal (0.25)."""


KWARGS = {"jaxnav": JaxNavKwargs}


def build(env_id: str, kwargs: Mapping[str, Any]) -> tuple[Any, adapter.Suite]:
    """Makes JaxMARL's environment and its `Suite`."""
    kwargs = {"map_size": 11, "fill": 0.3, **kwargs, "act_type": "Continuous"}
    size, fill = kwargs.pop("map_size"), kwargs.pop("fill")
    kwargs["map_params"] = {"map_size": (size, size), "fill": fill}
    env = _Discrete(adapter.construct(env_id, kwargs))
    columns = np.arange(env.num_agents * _ROBOT_COLUMNS, dtype=np.int32)
    suite = adapter.Suite(
        max_steps=env.max_steps,
        state=lambda obs, env_state: _state(env, size, env_state),
        team_reward=base.sum_over_agents,
        outcome=_outcome,
        variant=f"{env.num_agents} robots",
        metric_names=("win_rate",),
        agent_state=columns.reshape(-1, _ROBOT_COLUMNS),
        scene=base.Scene("maze", _scene_arrays, {"radius": env.rad, "reach": env.goal_radius}),
    )
    return env, suite


def _scene_arrays(state: Any) -> dict[str, Array]:
    return {
        "place": state.pos,
        "heading": state.theta,
        "goal": state.goal,
        "walls": state.map_data.astype(bool),
        "arrived": state.goal_reached,
        "crashed": state.move_term & ~state.goal_reached,
    }


class _Discrete:
    """The continuous environment with JaxMARL's discrete actions, because JaxMARL's discrete form
    prints while it is traced. Suppresses JAX's warnings during tracing.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        module = adapter.quiet_import("jaxmarl.environments.jaxnav.jaxnav_env")
        self._velocities = module.DISCRETE_ACTS

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def action_space(self, agent: str) -> Any:
        """The discrete action space."""
        del agent
        return adapter.quiet_import("jaxmarl.environments.spaces").Discrete(len(self._velocities))

    def reset(self, key: Array) -> Any:
        """As in JaxMARL."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._env.reset(key)

    def step_env(self, key: Array, state: Any, actions: Mapping[str, Array]) -> Any:
        """As in JaxMARL, for discrete actions."""
        velocities = {agent: self._velocities[action] for agent, action in actions.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._env.step_env(key, state, velocities)


def _outcome(state: Any, next_state: Any, actions: Array) -> tuple[Array, dict[str, Array]]:
    del state, actions
    stopped = next_state.goal_reached | next_state.move_term
    return stopped.all(), {"win_rate": next_state.goal_reached.all()}


def _state(env: Any, size: int, state: Any) -> Array:
    """f32[S]; lengths relative to the map size, cosine and sine of headings, relative speeds."""
    limits = jnp.array([env.max_v, env.max_w])
    robots = (
        state.pos / size, state.goal / size, jnp.cos(state.theta)[:, None],
        jnp.sin(state.theta)[:, None], state.vel / limits, state.goal_reached[:, None],
        state.move_term[:, None],
    )  # fmt: skip
    return jnp.concatenate(
        [jnp.concatenate(robots, axis=1).ravel(), state.map_data[1:-1, 1:-1].ravel()]
    )
