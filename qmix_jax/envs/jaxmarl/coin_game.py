"""JaxMARL's coin game (Lerer and Peysakhovich 2017) in its cooperative form, `shared_rewards`.

Two agents collect coins on a 3 x 3 torus. A coin pays 1 to the agent that collects it, and costs
the other agent 2 if it has that agent's colour. With shared rewards both receive the sum, so the
best team leaves each coin to its owner. Team reward: agent 0's. State: agent 0's observation, which
is complete.

All positions are redrawn after every `num_inner_steps`, in a step without reward; after
`num_outer_steps` such rounds the episode is `truncated`, with the last redrawn positions.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.envs.jaxmarl import adapter
from qmix_jax.types import Array


class CoinGameKwargs(config.Model):
    """JaxMARL keyword arguments that may be set; null is JaxMARL's default."""

    num_inner_steps: config.PositiveInt | None = None
    """Env steps per round, after which positions are redrawn (10)."""
    num_outer_steps: config.PositiveInt | None = None
    """Rounds per episode (10)."""
    cnn: bool | None = None
    """Observe an image [3, 3, 4] instead of its 36 flattened entries (false)."""
    egocentric: bool | None = None
    """Centre the observation on its agent (false)."""


KWARGS = {"coin_game": CoinGameKwargs}


def build(env_id: str, kwargs: Mapping[str, Any]) -> tuple[Any, adapter.Suite]:
    """Makes JaxMARL's environment and its `Suite`."""
    env = adapter.construct(env_id, {**kwargs, "shared_rewards": True})
    first = env.agents[0]
    suite = adapter.Suite(
        max_steps=env.num_inner_steps * env.num_outer_steps,
        state=lambda obs, env_state: obs[first].ravel(),
        team_reward=base.first_agent,
        outcome=adapter.never_terminates,
        obs_bounds=(0.0, 1.0),
        state_bounds=(0.0, 1.0),
        scene=base.Scene("cells", _scene_arrays, _SCENE),
    )
    return env, suite


_PIECES = {"colours": ("#d55e00", "#0072b2")}
_SCENE = {
    "rows": 3,
    "columns": 3,
    "kinds": {
        "agents": {**_PIECES, "shape": "o", "size": 0.55, "numbered": True, "offset": (0, 0)},
        "coins": {**_PIECES, "shape": "D", "size": 0.2, "numbered": False, "offset": (0.3, 0.3)},
    },
    "actors": "agents",
    "marked_action": None,
}


def _scene_arrays(state: Any) -> dict[str, Array]:
    """Coins in the order of their owners."""
    present = jnp.ones((2,), bool)
    return {
        "agents": jnp.stack([state.red_pos, state.blue_pos]),
        "agents_there": present,
        "coins": jnp.stack([state.red_coin_pos, state.blue_coin_pos]),
        "coins_there": present,
    }
