"""JaxMARL's coin game (Lerer and Peysakhovich 2017) in its cooperative form, `shared_rewards`.

Two agents collect coins on a 3 x 3 torus; a coin pays its finder 1, and costs the other agent 2 if
it had the other's colour. With shared rewards both get the sum, so the best team leaves each coin
to its owner. Team reward: agent 0's. State: agent 0's observation, which shows everything.

Positions are drawn anew after every `num_inner_steps`, a step that pays nothing; after
`num_outer_steps` of these the episode is `truncated`, showing the positions drawn last.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.envs.jaxmarl import adapter
from qmix_jax.types import Array

IDS = ("coin_game",)


class CoinGameKwargs(config.Model):
    """JaxMARL keyword arguments that may be set; null is JaxMARL's default."""

    num_inner_steps: config.PositiveInt | None = None
    """Env steps between two draws of all positions (10)."""
    num_outer_steps: config.PositiveInt | None = None
    """Such rounds per episode (10)."""
    cnn: bool | None = None
    """Observe an image [3, 3, 4] instead of its 36 entries in a row (false)."""
    egocentric: bool | None = None
    """Is the observer always in the middle (false)?"""


def kwargs_model(env_id: str) -> type[config.Model]:
    """The model of the keyword arguments of `env_id`."""
    del env_id
    return CoinGameKwargs


def build(env_id: str, kwargs: Mapping[str, Any]) -> tuple[Any, adapter.Suite]:
    """JaxMARL's environment and how to read it."""
    env = adapter.construct(env_id, {**kwargs, "shared_rewards": True})
    first = env.agents[0]
    suite = adapter.Suite(
        max_steps=env.num_inner_steps * env.num_outer_steps,
        state=lambda obs, env_state: obs[first].ravel(),
        team_reward=base.first_agent,
        outcome=adapter.time_limit,
        obs_bounds=(0.0, 1.0),
        state_bounds=(0.0, 1.0),
        scene=base.Scene("cells", _look, _FACTS),
    )
    return env, suite


_PIECES = {"colours": ("#d55e00", "#0072b2")}
_FACTS = {
    "rows": 3,
    "columns": 3,
    "kinds": {
        "agents": {**_PIECES, "shape": "o", "size": 0.55, "numbered": True, "offset": (0, 0)},
        "coins": {**_PIECES, "shape": "D", "size": 0.2, "numbered": False, "offset": (0.3, 0.3)},
    },
    "actors": "agents",
    "marked_action": None,
}


def _look(state: Any) -> dict[str, Array]:
    """Each agent has its coin's colour."""
    there = jnp.ones((2,), bool)
    return {
        "agents": jnp.stack([state.red_pos, state.blue_pos]),
        "agents_there": there,
        "coins": jnp.stack([state.red_coin_pos, state.blue_coin_pos]),
        "coins_there": there,
    }
