"""JaxMARL's SMAX against the heuristic enemy (Rutherford et al. 2023), after SMAC.

Team reward: agent 0's (all allies get the same, dead ones included). `truncated` if the time is up
with units of both teams alive, otherwise `terminated`; episodes have up to `max_steps + 1` env
steps: JaxMARL tests its limit before it counts the step. Metric `win_rate`: all enemies dead and an
ally alive.

Deviation: JaxMARL's world state holds positions in map units, weapon cooldowns that fall without
bound while a unit does not fire, and unit type indices; by default all are normalised to [0, 1].
"""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.envs.jaxmarl import adapter
from qmix_jax.types import Array, TimeStep, record

IDS = ("HeuristicEnemySMAX",)
UnitType = Literal["marine", "marauder", "stalker", "zealot", "zergling", "hydralisk"]
Team = tuple[tuple[UnitType, int], ...]
_UNIT_TYPES: tuple[str, ...] = UnitType.__args__
_COOLDOWN = 3


class SMAXKwargs(config.Model):
    """JaxMARL keyword arguments that may be set; null is JaxMARL's default."""

    enemy_shoots: bool | None = None
    """Does the enemy attack (true)?"""
    attack_mode: Literal["closest", "random"] | None = None
    """Which ally an enemy attacks (closest)."""
    see_enemy_actions: bool | None = None
    """Are the enemies' last actions observed (true)?"""
    walls_cause_death: bool | None = None
    """Does touching the map's edge kill (true)?"""
    won_battle_bonus: Annotated[float, Field(ge=0)] | None = None
    """Reward for winning (1); damage pays at most 1 more."""
    use_self_play_reward: bool | None = None
    """No reward for damage, and minus the bonus for a loss (false)."""
    max_steps: config.PositiveInt | None = None
    """JaxMARL's limit (100); episodes have up to one env step more."""
    world_steps_per_env_step: config.PositiveInt | None = None
    """Simulation steps per env step (8)."""
    time_per_step: config.PositiveFloat | None = None
    """Seconds per simulation step (1/16)."""
    map_width: config.PositiveInt | None = None
    """Map units (32)."""
    map_height: config.PositiveInt | None = None
    """Map units (32)."""
    observation_type: Literal["unit_list", "conic"] | None = None
    """One block per unit, or per sector and distance rank (unit_list)."""
    action_type: Literal["discrete"] | None = None
    """Continuous actions are refused: Q-learning needs a finite set."""


def kwargs_model(env_id: str) -> type[config.Model]:
    """The model of the keyword arguments of `env_id`."""
    del env_id
    return SMAXKwargs


def registered_scenario(name: str) -> Any:
    """JaxMARL's scenario of that name, `register_scenario`'s included.

    Raises:
      ConfigError: there is none; names the nearest and lists all.
    """
    known = _smax_env().MAP_NAME_TO_SCENARIO
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise config.ConfigError(
        f"env jaxmarl: scenario={name!r} is unknown; {hint}allowed: {', '.join(known)}, "
        "or compose one with allies and enemies"
    )


def scenario_names() -> tuple[str, ...]:
    """Every scenario registered with JaxMARL."""
    return tuple(_smax_env().MAP_NAME_TO_SCENARIO)


def composed_scenario(allies: Team, enemies: Team) -> Any:
    """A scenario of the given units in the given order, spawned face to face."""
    types = [_UNIT_TYPES.index(unit) for unit, count in allies + enemies for _ in range(count)]
    n_allies = sum(count for _, count in allies)
    return _smax_env().Scenario(
        unit_types=jnp.array(types, jnp.uint8),
        num_allies=n_allies,
        num_enemies=len(types) - n_allies,
        smacv2_position_generation=False,
        smacv2_unit_type_generation=False,
    )


def build(env_id: str, kwargs: Mapping[str, Any], normalise: bool) -> tuple[Any, adapter.Suite]:
    """JaxMARL's environment and how to read it.

    Args:
      env_id: one of `IDS`.
      kwargs: JaxMARL's, `scenario` included.
      normalise: the world state, as the module says.
    """
    env = adapter.construct(env_id, kwargs)
    features = len(env.own_features)

    def avail_actions(env_state: Any) -> Array:
        avail = env.get_avail_actions(env_state)
        return jnp.stack([avail[agent] for agent in env.agents])

    def outcome(before: Any, after: Any, actions: Array) -> tuple[Array, dict[str, Array]]:
        allies, enemies = jnp.split(after.state.unit_alive, (env.num_allies,))
        return ~(allies.any() & enemies.any()), {"win_rate": allies.any() & ~enemies.any()}

    normaliser = _normaliser(env) if normalise else lambda state: state
    suite = adapter.Suite(
        max_steps=env.max_steps + 1,
        state=lambda obs, env_state: normaliser(obs["world_state"]),
        team_reward=base.first_agent,
        outcome=outcome,
        metric_names=("win_rate",),
        heuristic=_heuristic(env),
        scene=_scene(env),
        avail_actions=avail_actions,
        agent_state=np.arange(env.num_allies * features, dtype=np.int32).reshape(-1, features),
        obs_bounds=(-1.0, 1.0),
        state_bounds=(0.0, 1.0) if normalise else None,
    )
    return _ObservedOnce(env) if env.observation_type == "unit_list" else env, suite


@record
class _SMAXState:
    """JaxMARL's two states, and what the enemy units see f32[E, O]."""

    state: Any
    enemy_policy_state: Any
    enemy_obs: Array


class _ObservedOnce:
    """The same environment, bit for bit, whose state remembers what the enemy sees: JaxMARL's step
    observes the state that it starts from, which the step before had observed at its end.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self._arena = env._env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self, key: Array) -> tuple[Mapping[str, Array], _SMAXState]:
        """As JaxMARL's."""
        key, key_reset = jax.random.split(key)
        obs, state = self._arena.reset(key_reset)
        return obs, self._state(obs, state, self._env.get_enemy_policy_initial_state(key))

    def step_env(self, key: Array, state: _SMAXState, actions: Mapping[str, Array]) -> Any:
        """As JaxMARL's, for discrete actions."""
        key, key_enemy = jax.random.split(key)
        enemy_actions, policy = self._env.get_enemy_actions(
            key_enemy, state.enemy_policy_state, state.enemy_obs
        )
        everyone = {**actions, **enemy_actions}
        decoded = self._arena._decode_discrete_actions(
            jnp.stack([everyone[agent] for agent in self._arena.agents])
        )
        obs, after, *rest = self._arena.step_env_no_decode(key, state.state, decoded)
        return obs, self._state(obs, after, policy), *rest

    def _state(self, obs: Mapping[str, Array], state: Any, policy: Any) -> _SMAXState:
        enemy_obs = jnp.stack([obs[agent] for agent in self._env.enemy_agents])
        return _SMAXState(state=state, enemy_policy_state=policy, enemy_obs=enemy_obs)


def _scene(env: Any) -> base.Scene:
    """Positions in map units, health as a share, cooldowns in seconds; `target` is the unit that
    each one was told to shoot at, -1 for none.
    """
    n, first_attack = env.num_allies, env.num_movement_actions
    ally = np.arange(n + env.num_enemies) < n

    def look(env_state: Any) -> dict[str, Array]:
        arena = env_state.state
        order = arena.prev_attack_actions.astype(jnp.int32) - first_attack
        return {
            "place": arena.unit_positions,
            "health": arena.unit_health / env.unit_type_health[arena.unit_types],
            "alive": arena.unit_alive,
            "kind": arena.unit_types.astype(jnp.int32),
            "cooldown": arena.unit_weapon_cooldowns,
            # JaxMARL counts the allies backwards when an enemy shoots.
            "target": jnp.where(order < 0, -1, jnp.where(ally, n + order, n - 1 - order)),
        }

    facts = {
        "allies": n,
        "letters": tuple(env.unit_type_shorthands),
        "kinds": _UNIT_TYPES,
        "radii": np.asarray(env.unit_type_radiuses),
        "cooldowns": np.asarray(env.unit_type_weapon_cooldowns),
        "seconds": env.world_steps_per_env_step * env.time_per_step,
    }
    return base.Scene("battle", look, facts)


def _heuristic(env: Any) -> base.HeuristicPolicy:
    """Units attack the nearest enemy in range, and go on with it for as long as they can; without
    one in range they walk towards the nearest enemy alive, by true positions.

    Reference: Rashid et al. 2018 (QMIX), section 6, the heuristic with full observability.
    """
    n, first_attack = env.num_allies, env.num_movement_actions
    stop = first_attack - 1
    directions = jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]])

    def act(key: Array, env_state: Any, timestep: TimeStep, target: Array) -> tuple[Array, Array]:
        del key
        arena = env_state.state
        apart = arena.unit_positions[n:] - arena.unit_positions[:n, None]
        distance = jnp.where(arena.unit_alive[n:], jnp.linalg.norm(apart, axis=-1), jnp.inf)
        in_range = timestep.avail_actions[:, first_attack:]
        nearest_in_range = jnp.argmin(jnp.where(in_range, distance, jnp.inf), axis=1)
        kept = (in_range & (jnp.arange(env.num_enemies) == target[:, None])).any(axis=1)
        found = jnp.where(in_range.any(axis=1), nearest_in_range, -1)
        target = jnp.where(kept, target, found).astype(jnp.int32)
        way = jnp.take_along_axis(apart, jnp.argmin(distance, axis=1)[:, None, None], axis=1)[:, 0]
        walk = jnp.argmax(way @ directions.T, axis=1)
        walk = jnp.where(timestep.avail_actions[:, 0], walk, stop)  # the dead can only stop
        return jnp.where(target >= 0, first_attack + target, walk).astype(jnp.int32), target

    return base.HeuristicPolicy(np.full((n,), -1, np.int32), act)


def _normaliser(env: Any) -> Any:
    """`(world state) -> f32[S]` with positions, cooldowns and type indices in [0, 1].

    The world state is U blocks of features (health fraction, x, y, cooldown, type one-hot), then U
    teams, then U type indices. A cooldown becomes clip(cooldown / its type's cooldown, 0, 1).
    """
    units = env.num_allies + env.num_enemies
    n_types = env.unit_type_bits
    block = [1.0, 1.0 / env.map_width, 1.0 / env.map_height, 1.0] + [1.0] * n_types
    scale = np.array(block * units + [1.0] * units + [1.0 / (n_types - 1)] * units, np.float32)
    type_columns = np.arange(scale.size)[-units:]
    unit_of_column = np.concatenate(
        [np.repeat(np.arange(units), len(block)), *[np.arange(units)] * 2]
    )
    cooldown_columns = np.zeros(scale.shape, bool)
    cooldown_columns[_COOLDOWN : units * len(block) : len(block)] = True
    per_type = 1.0 / np.asarray(env.unit_type_weapon_cooldowns)

    def normalise(world_state: Array) -> Array:
        types = world_state[type_columns].astype(jnp.int32)
        cooldown_scale = jnp.asarray(per_type)[types][unit_of_column]
        cooldown = jnp.clip(world_state * cooldown_scale, 0.0, 1.0)
        return jnp.where(cooldown_columns, cooldown, world_state * scale)

    return normalise


def _smax_env() -> Any:
    return adapter.quiet_import("jaxmarl.environments.smax.smax_env")
