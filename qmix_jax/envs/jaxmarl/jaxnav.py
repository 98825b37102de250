"""JaxMARL's JaxNav (Rutherford et al. 2024): robots with lidar drive to goals on random maps.

Actions: JaxMARL's 15 discrete pairs of speed and turn; its default is continuous. Team reward: the
sum over robots, in which JaxMARL's mixing of own and mean rewards cancels. `terminated` when every
robot has reached its goal or crashed, `truncated` at the limit. Metric `win_rate`: all reached
their goals.

State, JaxMARL's repeats every observation: per robot position, heading, goal, velocity, and whether
it arrived or crashed; then the cells of the map inside its border.
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

IDS = ("jaxnav",)
_ROBOT_COLUMNS = 10


class JaxNavKwargs(config.Model):
    """JaxMARL keyword arguments that may be set; null is JaxMARL's default."""

    act_type: Literal["Discrete"] | None = None
    """Continuous actions are refused: Q-learning needs a finite set."""
    num_agents: config.PositiveInt | None = None
    """Robots (2)."""
    map_size: Annotated[config.Int, Field(ge=5)] | None = None
    """Cells along each side of the square map, border included (11)."""
    fill: config.Fraction | None = None
    """Largest share of cells that are walls (0.3)."""
    max_steps: config.PositiveInt | None = None
    """Env steps per episode, at most (500)."""
    lidar_num_beams: config.PositiveInt | None = None
    """Distances that a robot measures (200)."""
    goal_radius: config.PositiveFloat | None = None
    """Distance at which a goal is reached, in cells (0.5)."""
    goal_rew: float | None = None
    """Reward for reaching a goal (4)."""
    coll_rew: float | None = None
    """Reward for a collision (-4)."""
    dt_rew: float | None = None
    """Reward for each step on the way (-0.01)."""
    weight_g: float | None = None
    """Reward per cell that a goal comes nearer (0.25)."""


def kwargs_model(env_id: str) -> type[config.Model]:
    """The model of the keyword arguments of `env_id`."""
    del env_id
    return JaxNavKwargs


def build(env_id: str, kwargs: Mapping[str, Any]) -> tuple[Any, adapter.Suite]:
    """JaxMARL's environment and how to read it."""
    own = {"map_size": 11, "fill": 0.3, **kwargs, "act_type": "Discrete"}
    size, fill = own.pop("map_size"), own.pop("fill")
    own["map_params"] = {"map_size": (size, size), "fill": fill}
    env = _Quiet(adapter.construct(env_id, own))
    columns = np.arange(env.num_agents * _ROBOT_COLUMNS, dtype=np.int32)
    suite = adapter.Suite(
        max_steps=env.max_steps,
        state=lambda obs, env_state: _state(env, size, env_state),
        team_reward=base.summed,
        outcome=_outcome,
        variant=f"{env.num_agents} robots",
        metric_names=("win_rate",),
        agent_state=columns.reshape(-1, _ROBOT_COLUMNS),
        scene=base.Scene("maze", _look, {"radius": env.rad, "reach": env.goal_radius}),
    )
    return env, suite


def _look(state: Any) -> dict[str, Array]:
    return {
        "place": state.pos,
        "heading": state.theta,
        "goal": state.goal,
        "walls": state.map_data.astype(bool),
        "arrived": state.goal_reached,
        "crashed": state.move_term & ~state.goal_reached,
    }


class _Quiet:
    """The same environment without what JAX says of it, and JaxMARL prints, while it is traced."""

    def __init__(self, env: Any) -> None:
        self._env = env
        module = adapter.quiet_import("jaxmarl.environments.jaxnav.jaxnav_env")
        self._velocities = module.DISCRETE_ACTS
        # Its own discrete form prints; the continuous one takes the same velocities.
        self._env._act_type = "Continuous"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self, key: Array) -> Any:
        """As JaxMARL's."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._env.reset(key)

    def step_env(self, key: Array, state: Any, actions: Mapping[str, Array]) -> Any:
        """As JaxMARL's, for discrete actions."""
        chosen = {agent: self._velocities[action] for agent, action in actions.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._env.step_env(key, state, chosen)


def _outcome(before: Any, after: Any, actions: Array) -> tuple[Array, dict[str, Array]]:
    del before, actions
    settled = after.goal_reached | after.move_term
    return settled.all(), {"win_rate": after.goal_reached.all()}


def _state(env: Any, size: int, state: Any) -> Array:
    """f32[S]; lengths in map sizes, angles in half turns, speeds in their limits."""
    limits = jnp.array([env.max_v, env.max_w])
    robots = (
        state.pos / size, state.goal / size, jnp.cos(state.theta)[:, None],
        jnp.sin(state.theta)[:, None], state.vel / limits, state.goal_reached[:, None],
        state.move_term[:, None],
    )  # fmt: skip
    return jnp.concatenate(
        [jnp.concatenate(robots, axis=1).ravel(), state.map_data[1:-1, 1:-1].ravel()]
    )
