"""JaxMARL's Overcooked (Carroll et al. 2019) and Overcooked v2 (Gessler et al. 2025): cooks share a
kitchen and are paid for the soups that they deliver.

Observations are JaxMARL's images `[height, width, channels]`, unscaled. Team reward: agent 0's (all
cooks get the same), plus `shaped_reward` times the sum of the cooks' shaped rewards (onions in
pots, plates, soups) if asked for. Metrics: `sparse_return`, what deliveries paid, and
`shaped_return`, the shaped rewards before weighting. There is no end but the time limit:
`truncated` after `max_steps`.

State, JaxMARL has none: for each cook the cell as one-hot over the floor, direction and what is
held; what lies on each piece of furniture; pots (and the recipe in v2). All entries in [0, 1].
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.envs.jaxmarl import adapter
from qmix_jax.types import Array, record

_COOKING = 20
"""Steps that a soup cooks for, in both versions; the highest number in an observation."""
_MOST = 3
"""Ingredients of a soup."""


class OvercookedKwargs(config.Model):
    """Arguments that may be set; null is the default."""

    layout: str | None = None
    """A registered kitchen (cramped_room)."""
    shaped_reward: Annotated[float, Field(ge=0)] | None = None
    """Weight of the shaped rewards in the team reward (0); this project's, not JaxMARL's."""
    max_steps: config.PositiveInt | None = None
    """Env steps per episode (400)."""
    random_reset: bool | None = None
    """Random positions, pots and things held at first (false)."""


class OvercookedV2Kwargs(OvercookedKwargs):
    """Those of Overcooked v2."""

    agent_view_size: config.PositiveInt | None = None
    """Cells seen in each direction; null for the whole kitchen (null)."""
    random_agent_positions: bool | None = None
    """Cooks start anywhere in their room (false)."""
    start_cooking_interaction: bool | None = None
    """A full pot cooks only once a cook starts it (false)."""
    negative_rewards: bool | None = None
    """Wrong soups cost what right ones pay (false)."""
    sample_recipe_on_delivery: bool | None = None
    """A new recipe after each delivery, not only each episode (false)."""
    indicate_successful_delivery: bool | None = None
    """Show right deliveries in the observation (false)."""


_KWARGS: dict[str, type[OvercookedKwargs]] = {
    "overcooked": OvercookedKwargs,
    "overcooked_v2": OvercookedV2Kwargs,
}
IDS = tuple(_KWARGS)


def kwargs_model(env_id: str) -> type[config.Model]:
    """The model of the keyword arguments of `env_id`."""
    return _KWARGS[env_id]


def build(env_id: str, kwargs: Mapping[str, Any]) -> tuple[Any, adapter.Suite]:
    """JaxMARL's environment and how to read it.

    Raises: ConfigError for an unknown layout.
    """
    own = {"layout": "cramped_room", "shaped_reward": 0.0, **kwargs}
    name, weight = own.pop("layout"), own.pop("shaped_reward")
    module = adapter.quiet_import(f"jaxmarl.environments.{env_id}.layouts")
    layouts = getattr(module, f"{env_id}_layouts")
    if name not in layouts:
        raise config.ConfigError(
            f"env jaxmarl: kwargs.layout={name!r} of {env_id} is unknown; "
            f"{config.suggest(name, tuple(layouts))}"
        )
    kitchen = adapter.construct(env_id, {**own, "layout": layouts[name]})
    first = env_id == "overcooked"
    floor, look = (_survey if first else _survey_v2)(kitchen)
    picture = (_scene if first else _scene_v2)(kitchen)
    env = _Scored(kitchen, weight)
    _, shapes = jax.eval_shape(env.reset, jax.eval_shape(jax.random.key, 0))
    cook_shape = jax.eval_shape(lambda state: _cooks(look(state.kitchen), floor), shapes).shape
    suite = adapter.Suite(
        max_steps=kitchen.max_steps,
        state=lambda obs, env_state: _state(look(env_state.kitchen), floor),
        team_reward=base.first_agent,
        outcome=_outcome,
        variant=name,
        metric_names=("sparse_return", "shaped_return"),
        agent_state=np.arange(np.prod(cook_shape), dtype=np.int32).reshape(cook_shape),
        obs_bounds=(0.0, float(_COOKING)),
        state_bounds=(0.0, 1.0),
        scene=picture,
    )
    return env, suite


@record
class _OvercookedState:
    """JaxMARL's state, and the episode's sums f32[]."""

    kitchen: Any
    sparse: Array
    shaped: Array


class _Scored:
    """The same environment, whose state sums both kinds of reward, and which pays for both."""

    def __init__(self, env: Any, weight: float) -> None:
        self._env = env
        self._weight = weight

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self, key: Array) -> tuple[Mapping[str, Array], _OvercookedState]:
        """As JaxMARL's."""
        obs, kitchen = self._env.reset(key)
        return obs, _OvercookedState(kitchen=kitchen, sparse=jnp.zeros(()), shaped=jnp.zeros(()))

    def step_env(self, key: Array, state: _OvercookedState, actions: Mapping[str, Array]) -> Any:
        """As JaxMARL's, but the reward of every agent is the team's."""
        obs, kitchen, *rest = self._env.step_env(key, state.kitchen, actions)
        rewards, dones, info = rest
        sparse = rewards[self._env.agents[0]]
        shaped = sum(info["shaped_reward"].values(), jnp.zeros(()))
        after = _OvercookedState(
            kitchen=kitchen, sparse=state.sparse + sparse, shaped=state.shaped + shaped
        )
        team = dict.fromkeys(self._env.agents, sparse + self._weight * shaped)
        rest = (team, dones, info)
        return obs, after, *rest


def _outcome(
    before: Any, after: _OvercookedState, actions: Array
) -> tuple[Array, dict[str, Array]]:
    del before, actions
    metrics = {"sparse_return": after.sparse, "shaped_return": after.shaped}
    return jnp.zeros((), bool), metrics


class _Scene(NamedTuple):
    """What changes in a kitchen.

    Attributes:
      cell: i32[N], row by row.  facing: i32[N].  held: f32[N, K].
      lying: f32[F, K], on each piece of furniture.  rest: f32[R], pots and recipe.
    """

    cell: Array
    facing: Array
    held: Array
    lying: Array
    rest: Array


_Look = Callable[[Any], _Scene]


def _cooks(scene: _Scene, floor: np.ndarray) -> Array:
    """f32[N, F]."""
    place = (scene.cell[:, None] == floor).astype(jnp.float32)
    facing = jax.nn.one_hot(scene.facing, 4, dtype=jnp.float32)
    return jnp.concatenate([place, facing, scene.held], axis=1)


def _state(scene: _Scene, floor: np.ndarray) -> Array:
    return jnp.concatenate([_cooks(scene, floor).ravel(), scene.lying.ravel(), scene.rest])


def _survey(env: Any) -> tuple[np.ndarray, _Look]:
    """Floor cells and how to look at Overcooked: pots are onions in them, time to cook, ready."""
    common = adapter.quiet_import("jaxmarl.environments.overcooked.common")
    kinds = np.array([common.OBJECT_TO_INDEX[name] for name in ("onion", "plate", "dish")])
    furniture = np.asarray(env.layout["wall_idx"])
    floor = np.setdiff1d(np.arange(env.height * env.width), furniture)

    def look(state: Any) -> _Scene:
        pad = (state.maze_map.shape[0] - env.height) // 2
        cells = state.maze_map[pad:-pad, pad:-pad].reshape(-1, 3)
        pots = state.pot_pos[:, 1] * env.width + state.pot_pos[:, 0]
        # A status of 23 is an empty pot, each onion takes one; from 20 on it counts down to 0.
        status = cells[pots, 2].astype(jnp.float32)
        onions = jnp.minimum(_COOKING + _MOST - status, _MOST) / _MOST
        cooking = jnp.where(status < _COOKING, status / _COOKING, 0.0)
        ready = (status == 0).astype(jnp.float32)
        return _Scene(
            cell=(state.agent_pos[:, 1] * env.width + state.agent_pos[:, 0]).astype(jnp.int32),
            facing=state.agent_dir_idx,
            held=(state.agent_inv[:, None] == kinds).astype(jnp.float32),
            lying=(cells[furniture, :1] == kinds).astype(jnp.float32),
            rest=jnp.concatenate([onions, cooking, ready]),
        )

    return floor, look


def _survey_v2(env: Any) -> tuple[np.ndarray, _Look]:
    """Floor cells and how to look at Overcooked v2: an object is bits for plate and cooked, and two
    bits per ingredient that count it.
    """
    common = adapter.quiet_import("jaxmarl.environments.overcooked_v2.common")
    empty = np.asarray(env.layout.static_objects).ravel() == common.StaticObject.EMPTY
    floor, furniture = np.flatnonzero(empty), np.flatnonzero(~empty)
    counts = 2 * (1 + np.arange(env.layout.num_ingredients))
    shift = np.array([0, 1, *counts])
    most = np.array([1, 1] + [_MOST] * len(counts))

    def parts(objects: Array) -> Array:
        return ((objects[..., None] >> shift) & most) / most

    def look(state: Any) -> _Scene:
        cells = state.grid.reshape(-1, 3)[furniture]
        timers = cells[:, 2] / _COOKING
        return _Scene(
            cell=state.agents.pos.y * env.width + state.agents.pos.x,
            facing=state.agents.dir,
            held=parts(state.agents.inventory),
            lying=parts(cells[:, 1]),
            rest=jnp.concatenate([timers, parts(state.recipe)]),
        )

    return floor, look


_PLATE, _COOKED, _ONION = 1, 2, 4
"""A thing in bits, as Overcooked v2 writes it; three onions are three times one."""


def _scene(env: Any) -> base.Scene:
    """Overcooked in the words of v2, which the painter of kitchens knows."""
    common = adapter.quiet_import("jaxmarl.environments.overcooked.common")
    v2 = adapter.quiet_import("jaxmarl.environments.overcooked_v2.common").StaticObject
    tiles = np.zeros(env.height * env.width, np.int32)
    kinds = {
        "wall_idx": v2.WALL,
        "goal_idx": v2.GOAL,
        "pot_idx": v2.POT,
        "plate_pile_idx": v2.PLATE_PILE,
        "onion_pile_idx": v2.INGREDIENT_PILE_BASE,
    }
    for name, kind in kinds.items():
        tiles[np.asarray(env.layout[name])] = kind
    tiles = tiles.reshape(env.height, env.width)
    things = np.zeros(len(common.OBJECT_TO_INDEX), np.int32)
    soup = _PLATE | _COOKED | _MOST * _ONION
    for name, bits in (("onion", _ONION), ("plate", _PLATE), ("dish", soup)):
        things[common.OBJECT_TO_INDEX[name]] = bits

    def look(env_state: _OvercookedState) -> dict[str, Array]:
        state = env_state.kitchen
        pad = (state.maze_map.shape[0] - env.height) // 2
        cells = state.maze_map[pad:-pad, pad:-pad].astype(jnp.int32)
        status, pot = cells[..., 2], tiles == v2.POT
        inside = jnp.clip(_COOKING + _MOST - status, 0, _MOST) * _ONION
        inside = inside | jnp.where(status == 0, _COOKED, 0)
        return {
            "lying": jnp.where(pot, inside, jnp.asarray(things)[cells[..., 0]]),
            "timer": jnp.where(pot & (status < _COOKING), status, 0),
            "x": state.agent_pos[:, 0].astype(jnp.int32),
            "y": state.agent_pos[:, 1].astype(jnp.int32),
            "facing": state.agent_dir_idx,
            "held": jnp.asarray(things)[state.agent_inv.astype(jnp.int32)],
            "recipe": jnp.asarray(_MOST * _ONION),
        }

    return base.Scene("kitchen", look, {"tiles": tiles, "cooking": _COOKING})


def _scene_v2(env: Any) -> base.Scene:
    def look(env_state: _OvercookedState) -> dict[str, Array]:
        state = env_state.kitchen
        return {
            "lying": state.grid[..., 1],
            "timer": state.grid[..., 2],
            "x": state.agents.pos.x,
            "y": state.agents.pos.y,
            "facing": state.agents.dir,
            "held": state.agents.inventory,
            "recipe": state.recipe,
        }

    tiles = np.asarray(env.layout.static_objects)
    return base.Scene("kitchen", look, {"tiles": tiles, "cooking": _COOKING})
