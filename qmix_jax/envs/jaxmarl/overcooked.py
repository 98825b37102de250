"""JaxMARL's Overcooked (Carroll et al. 2019) and Overcooked v2 (Gessler et al. 2025): cooks share a
kitchen and are rewarded for delivering soups.

Observations are JaxMARL's images `[height, width, channels]`, unscaled. Team reward: agent 0's (all
cooks receive the same), plus `shaped_reward` times the sum of the cooks' shaped rewards (onions in
pots, plates, soups). Metrics: `sparse_return`, the rewards for deliveries, and `shaped_return`, the
shaped rewards before weighting. Episodes end only at the time limit: `truncated` after `max_steps`.

State (JaxMARL has none): per cook the cell as one-hot over the floor, direction and inventory; the
object on each piece of furniture; pots (and the recipe in v2). All entries are in [0, 1].
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

_COOK_TIME = 20
"""Env steps to cook a soup, in both versions; the highest value in an observation."""
_SOUP_SIZE = 3
"""Ingredients of a soup."""


class OvercookedKwargs(config.Model):
    """Keyword arguments that may be set; null is the default."""

    layout: str | None = None
    """A registered layout (cramped_room)."""
    shaped_reward: Annotated[float, Field(ge=0)] | None = None
    """Weight of the shaped rewards in the team reward (0); not an argument of JaxMARL."""
    max_steps: config.PositiveInt | None = None
    """Env steps per episode (400)."""
    random_reset: bool | None = None
    """Random initial positions, pots and inventories (false)."""


class OvercookedV2Kwargs(OvercookedKwargs):
    """Keyword arguments of Overcooked v2."""

    agent_view_size: config.PositiveInt | None = None
    """Cells visible in each direction; null for the full kitchen (null)."""
    random_agent_positions: bool | None = None
    """Cooks start anywhere in their room (false)."""
    start_cooking_interaction: bool | None = None
    """A full pot cooks only after a cook starts it (false)."""
    negative_rewards: bool | None = None
    """Wrong soups cost as much as correct ones pay (false)."""
    sample_recipe_on_delivery: bool | None = None
    """A new recipe after each delivery, not only in each episode (false)."""
    indicate_successful_delivery: bool | None = None
    """Observe correct deliveries (false)."""


KWARGS: dict[str, type[OvercookedKwargs]] = {
    "overcooked": OvercookedKwargs,
    "overcooked_v2": OvercookedV2Kwargs,
}


def build(env_id: str, kwargs: Mapping[str, Any]) -> tuple[Any, adapter.Suite]:
    """Makes JaxMARL's environment and its `Suite`.

    Raises: ConfigError for an unknown layout.
    """
    kwargs = {"layout": "cramped_room", "shaped_reward": 0.0, **kwargs}
    name, weight = kwargs.pop("layout"), kwargs.pop("shaped_reward")
    module = adapter.quiet_import(f"jaxmarl.environments.{env_id}.layouts")
    layouts = getattr(module, f"{env_id}_layouts")
    if name not in layouts:
        raise config.ConfigError(
            f"env jaxmarl: kwargs.layout={name!r} of {env_id} is unknown; "
            f"{config.suggest(name, tuple(layouts))}"
        )
    kitchen = adapter.construct(env_id, {**kwargs, "layout": layouts[name]})
    is_v1 = env_id == "overcooked"
    floor, read = (_reader if is_v1 else _reader_v2)(kitchen)
    scene = (_scene if is_v1 else _scene_v2)(kitchen)
    env = _WithReturns(kitchen, weight)
    _, env_state = adapter.reset_shapes(env)
    cook_shape = jax.eval_shape(lambda state: _cooks(read(state.kitchen), floor), env_state).shape
    suite = adapter.Suite(
        max_steps=kitchen.max_steps,
        state=lambda obs, env_state: _state(read(env_state.kitchen), floor),
        team_reward=base.first_agent,
        outcome=_outcome,
        variant=name,
        metric_names=("sparse_return", "shaped_return"),
        agent_state=np.arange(np.prod(cook_shape), dtype=np.int32).reshape(cook_shape),
        obs_bounds=(0.0, float(_COOK_TIME)),
        state_bounds=(0.0, 1.0),
        scene=scene,
    )
    return env, suite


@record
class _OvercookedState:
    """JaxMARL's state, and the episode's sums of both rewards, f32[]."""

    kitchen: Any
    sparse: Array
    shaped: Array


class _WithReturns:
    """The same environment with both kinds of reward, summed over the episode in its state."""

    def __init__(self, env: Any, weight: float) -> None:
        self._env = env
        self._weight = weight

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self, key: Array) -> tuple[Mapping[str, Array], _OvercookedState]:
        """As in JaxMARL."""
        obs, kitchen = self._env.reset(key)
        return obs, _OvercookedState(kitchen=kitchen, sparse=jnp.zeros(()), shaped=jnp.zeros(()))

    def step_env(self, key: Array, state: _OvercookedState, actions: Mapping[str, Array]) -> Any:
        """As in JaxMARL, with the team reward for every agent."""
        obs, kitchen, *others = self._env.step_env(key, state.kitchen, actions)
        rewards, dones, info = others
        sparse = rewards[self._env.agents[0]]
        shaped = sum(info["shaped_reward"].values(), jnp.zeros(()))
        next_state = _OvercookedState(
            kitchen=kitchen, sparse=state.sparse + sparse, shaped=state.shaped + shaped
        )
        rewards = dict.fromkeys(self._env.agents, sparse + self._weight * shaped)
        others = (rewards, dones, info)
        return obs, next_state, *others


def _outcome(
    state: Any, next_state: _OvercookedState, actions: Array
) -> tuple[Array, dict[str, Array]]:
    del state, actions
    metrics = {"sparse_return": next_state.sparse, "shaped_return": next_state.shaped}
    return jnp.zeros((), bool), metrics


class _Kitchen(NamedTuple):
    """The variable parts of a kitchen.

    Attributes:
      cell: i32[N], of each cook, row by row.  direction: i32[N].  inventory: f32[N, K].
      objects: f32[F, K], on each piece of furniture.  pots: f32[R], and the recipe in v2.
    """

    cell: Array
    direction: Array
    inventory: Array
    objects: Array
    pots: Array


_Reader = Callable[[Any], _Kitchen]


def _cooks(kitchen: _Kitchen, floor: np.ndarray) -> Array:
    """f32[N, F]."""
    cell = (kitchen.cell[:, None] == floor).astype(jnp.float32)
    direction = jax.nn.one_hot(kitchen.direction, 4, dtype=jnp.float32)
    return jnp.concatenate([cell, direction, kitchen.inventory], axis=1)


def _state(kitchen: _Kitchen, floor: np.ndarray) -> Array:
    return jnp.concatenate([_cooks(kitchen, floor).ravel(), kitchen.objects.ravel(), kitchen.pots])


def _reader(env: Any) -> tuple[np.ndarray, _Reader]:
    """Floor cells, and a reader of v1 states; a pot is (onions, time left, ready)."""
    common = adapter.quiet_import("jaxmarl.environments.overcooked.common")
    kinds = np.array([common.OBJECT_TO_INDEX[name] for name in ("onion", "plate", "dish")])
    furniture = np.asarray(env.layout["wall_idx"])
    floor = np.setdiff1d(np.arange(env.height * env.width), furniture)

    def read(state: Any) -> _Kitchen:
        pad = (state.maze_map.shape[0] - env.height) // 2
        cells = state.maze_map[pad:-pad, pad:-pad].reshape(-1, 3)
        pots = state.pot_pos[:, 1] * env.width + state.pot_pos[:, 0]
        # An empty pot has status 23; each onion subtracts 1; from 20 it counts down to 0.
        status = cells[pots, 2].astype(jnp.float32)
        onions = jnp.minimum(_COOK_TIME + _SOUP_SIZE - status, _SOUP_SIZE) / _SOUP_SIZE
        cooking = jnp.where(status < _COOK_TIME, status / _COOK_TIME, 0.0)
        ready = (status == 0).astype(jnp.float32)
        return _Kitchen(
            cell=(state.agent_pos[:, 1] * env.width + state.agent_pos[:, 0]).astype(jnp.int32),
            direction=state.agent_dir_idx,
            inventory=(state.agent_inv[:, None] == kinds).astype(jnp.float32),
            objects=(cells[furniture, :1] == kinds).astype(jnp.float32),
            pots=jnp.concatenate([onions, cooking, ready]),
        )

    return floor, read


def _reader_v2(env: Any) -> tuple[np.ndarray, _Reader]:
    """Floor cells, and a reader of v2 states; an object is a bit each for plate and cooked, and a
    two-bit count per ingredient.
    """
    common = adapter.quiet_import("jaxmarl.environments.overcooked_v2.common")
    empty = np.asarray(env.layout.static_objects).ravel() == common.StaticObject.EMPTY
    floor, furniture = np.flatnonzero(empty), np.flatnonzero(~empty)
    counts = 2 * (1 + np.arange(env.layout.num_ingredients))
    shift = np.array([0, 1, *counts])
    maximum = np.array([1, 1] + [_SOUP_SIZE] * len(counts))

    def unpack(objects: Array) -> Array:
        return ((objects[..., None] >> shift) & maximum) / maximum

    def read(state: Any) -> _Kitchen:
        cells = state.grid.reshape(-1, 3)[furniture]
        timers = cells[:, 2] / _COOK_TIME
        return _Kitchen(
            cell=state.agents.pos.y * env.width + state.agents.pos.x,
            direction=state.agents.dir,
            inventory=unpack(state.agents.inventory),
            objects=unpack(cells[:, 1]),
            pots=jnp.concatenate([timers, unpack(state.recipe)]),
        )

    return floor, read


_PLATE, _COOKED, _ONION = 1, 2, 4
"""Bits of an object in Overcooked v2; three onions are three times one onion."""


def _scene(env: Any) -> base.Scene:
    """A v1 kitchen in the encoding of v2, which the painter `kitchen` reads."""
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
    objects = np.zeros(len(common.OBJECT_TO_INDEX), np.int32)
    soup = _PLATE | _COOKED | _SOUP_SIZE * _ONION
    for name, bits in (("onion", _ONION), ("plate", _PLATE), ("dish", soup)):
        objects[common.OBJECT_TO_INDEX[name]] = bits

    def arrays(env_state: _OvercookedState) -> dict[str, Array]:
        state = env_state.kitchen
        pad = (state.maze_map.shape[0] - env.height) // 2
        cells = state.maze_map[pad:-pad, pad:-pad].astype(jnp.int32)
        status, pot = cells[..., 2], tiles == v2.POT
        contents = jnp.clip(_COOK_TIME + _SOUP_SIZE - status, 0, _SOUP_SIZE) * _ONION
        contents = contents | jnp.where(status == 0, _COOKED, 0)
        return {
            "lying": jnp.where(pot, contents, jnp.asarray(objects)[cells[..., 0]]),
            "timer": jnp.where(pot & (status < _COOK_TIME), status, 0),
            "x": state.agent_pos[:, 0].astype(jnp.int32),
            "y": state.agent_pos[:, 1].astype(jnp.int32),
            "facing": state.agent_dir_idx,
            "held": jnp.asarray(objects)[state.agent_inv.astype(jnp.int32)],
            "recipe": jnp.asarray(_SOUP_SIZE * _ONION),
        }

    return base.Scene("kitchen", arrays, {"tiles": tiles, "cooking": _COOK_TIME})


def _scene_v2(env: Any) -> base.Scene:
    def arrays(env_state: _OvercookedState) -> dict[str, Array]:
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
    return base.Scene("kitchen", arrays, {"tiles": tiles, "cooking": _COOK_TIME})
