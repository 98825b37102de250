"""JaxMARL's SMAX against the heuristic enemy (Rutherford et al. 2023), after SMAC.

Team reward: agent 0's (all allies receive the same, dead ones included). `truncated` if the time
limit is reached with units of both teams alive, otherwise `terminated`; episodes have up to
`max_steps + 1` env steps: JaxMARL tests its limit before it counts the step. Metric `win_rate`: all
enemies dead and an ally alive.

Deviation: JaxMARL's world state has positions in map units, weapon cooldowns that decrease without
bound while a unit does not fire, and unit type indices; by default all are normalised to [0, 1].
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.envs.jaxmarl import adapter
from qmix_jax.types import Array, TimeStep, record

ID = "HeuristicEnemySMAX"
UnitType = Literal["marine", "marauder", "stalker", "zealot", "zergling", "hydralisk"]
Team = tuple[tuple[UnitType, int], ...]
_UNIT_TYPES: tuple[str, ...] = get_args(UnitType)
_COOLDOWN = 3
"""Index of the cooldown in a unit's block of the world state."""


class SMAXKwargs(config.Model):
    """JaxMARL keyword arguments that may be set; null is JaxMARL's default."""

    enemy_shoots: bool | None = None
    """Whether enemies attack (true)."""
    attack_mode: Literal["closest", "random"] | None = None
    """Which ally an enemy attacks (closest)."""
    see_enemy_actions: bool | None = None
    """Whether the enemies' last actions are observed (true)."""
    walls_cause_death: bool | None = None
    """Whether touching the edge of the map kills (true)."""
    won_battle_bonus: Annotated[float, Field(ge=0)] | None = None
    """Reward for winning (1); damage adds at most 1."""
    use_self_play_reward: bool | None = None
    """No reward for damage, and the negative bonus for a loss (false)."""
    max_steps: config.PositiveInt | None = None
    """JaxMARL's limit (100); episodes are up to one env step longer."""
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


KWARGS = {ID: SMAXKwargs}


def scenarios() -> Mapping[str, Any]:
    """Returns all scenarios registered with JaxMARL, by name."""
    return _smax_env().MAP_NAME_TO_SCENARIO


def registered_scenario(name: str) -> Any:
    """Returns a scenario registered with JaxMARL. Raises: ConfigError if it is unknown."""
    known = scenarios()
    if name in known:
        return known[name]
    raise config.ConfigError(
        f"env jaxmarl: scenario={name!r} is unknown; {config.suggest(name, tuple(known))}, or "
        "compose one with allies and enemies"
    )


def composed_scenario(allies: Team, enemies: Team) -> Any:
    """Makes a scenario with these units in this order, spawned face to face."""
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
    """Makes JaxMARL's environment and its `Suite`.

    Args:
      env_id: `ID`.
      kwargs: of JaxMARL, `scenario` included.
      normalise: normalise the world state (see the module docstring).
    """
    env = adapter.construct(env_id, kwargs)
    features = len(env.own_features)

    def avail_actions(env_state: Any) -> Array:
        avail = env.get_avail_actions(env_state)
        return jnp.stack([avail[agent] for agent in env.agents])

    def outcome(state: Any, next_state: Any, actions: Array) -> tuple[Array, dict[str, Array]]:
        del state, actions
        allies, enemies = jnp.split(next_state.state.unit_alive, (env.num_allies,))
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
    """JaxMARL's two states, and the observations of the enemy units f32[E, O]."""

    state: Any
    enemy_policy_state: Any
    enemy_obs: Array


class _ObservedOnce:
    """The same environment, bit for bit, with the enemies' observations in its state: JaxMARL
    computes them at the end of one step and again at the start of the next.

    Uses private names of JaxMARL, checked against version 0.2.0: `HeuristicEnemySMAX._env`, the
    environment of both teams, and `SMAX._decode_discrete_actions`.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self._smax = env._env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self, key: Array) -> tuple[Mapping[str, Array], _SMAXState]:
        """As in JaxMARL."""
        key, key_reset = jax.random.split(key)
        obs, state = self._smax.reset(key_reset)
        return obs, self._state(obs, state, self._env.get_enemy_policy_initial_state(key))

    def step_env(self, key: Array, state: _SMAXState, actions: Mapping[str, Array]) -> Any:
        """As in JaxMARL, for discrete actions."""
        key, key_enemy = jax.random.split(key)
        enemy_actions, policy = self._env.get_enemy_actions(
            key_enemy, state.enemy_policy_state, state.enemy_obs
        )
        all_actions = {**actions, **enemy_actions}
        decoded = self._smax._decode_discrete_actions(
            jnp.stack([all_actions[agent] for agent in self._smax.agents])
        )
        obs, next_state, *others = self._smax.step_env_no_decode(key, state.state, decoded)
        return obs, self._state(obs, next_state, policy), *others

    def _state(self, obs: Mapping[str, Array], state: Any, policy: Any) -> _SMAXState:
        enemy_obs = jnp.stack([obs[agent] for agent in self._env.enemy_agents])
        return _SMAXState(state=state, enemy_policy_state=policy, enemy_obs=enemy_obs)


def _scene(env: Any) -> base.Scene:
    """Positions in map units, health relative to full health, cooldowns in seconds; `target` is the
    unit that each unit shoots at, -1 for none.
    """
    n, first_attack = env.num_allies, env.num_movement_actions
    ally = np.arange(n + env.num_enemies) < n

    def arrays(env_state: Any) -> dict[str, Array]:
        state = env_state.state
        attack = state.prev_attack_actions.astype(jnp.int32) - first_attack
        return {
            "place": state.unit_positions,
            "health": state.unit_health / env.unit_type_health[state.unit_types],
            "alive": state.unit_alive,
            "kind": state.unit_types.astype(jnp.int32),
            "cooldown": state.unit_weapon_cooldowns,
            # An enemy's attack actions count the allies backwards.
            "target": jnp.where(attack < 0, -1, jnp.where(ally, n + attack, n - 1 - attack)),
        }

    constants = {
        "allies": n,
        "letters": tuple(env.unit_type_shorthands),
        "kinds": _UNIT_TYPES,
        "radii": np.asarray(env.unit_type_radiuses),
        "cooldowns": np.asarray(env.unit_type_weapon_cooldowns),
        "seconds": env.world_steps_per_env_step * env.time_per_step,
    }
    return base.Scene("battle", arrays, constants)


def _heuristic(env: Any) -> base.HeuristicPolicy:
    """Units attack the nearest enemy in range and keep that target while it stays in range; with
    none in range they walk towards the nearest living enemy. Positions are the true ones.

    Reference: Rashid et al. 2018 (QMIX), section 6, the heuristic with full observability.
    """
    n, first_attack = env.num_allies, env.num_movement_actions
    stop = first_attack - 1
    directions = jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]])

    def act(key: Array, env_state: Any, timestep: TimeStep, target: Array) -> tuple[Array, Array]:
        del key
        state = env_state.state
        offset = state.unit_positions[n:] - state.unit_positions[:n, None]
        distance = jnp.where(state.unit_alive[n:], jnp.linalg.norm(offset, axis=-1), jnp.inf)
        in_range = timestep.avail_actions[:, first_attack:]
        nearest_in_range = jnp.argmin(jnp.where(in_range, distance, jnp.inf), axis=1)
        keeps = (in_range & (jnp.arange(env.num_enemies) == target[:, None])).any(axis=1)
        nearest = jnp.where(in_range.any(axis=1), nearest_in_range, -1)
        target = jnp.where(keeps, target, nearest).astype(jnp.int32)
        index = jnp.argmin(distance, axis=1)[:, None, None]
        walk = jnp.argmax(jnp.take_along_axis(offset, index, axis=1)[:, 0] @ directions.T, axis=1)
        walk = jnp.where(timestep.avail_actions[:, 0], walk, stop)  # the dead can only stop
        return jnp.where(target >= 0, first_attack + target, walk).astype(jnp.int32), target

    return base.HeuristicPolicy(np.full((n,), -1, np.int32), act)


def _normaliser(env: Any) -> Any:
    """`(world state) -> f32[S]` with positions, cooldowns and type indices in [0, 1].

    The world state has U blocks of features (health fraction, x, y, cooldown, type one-hot), U
    teams and U type indices. A cooldown becomes clip(cooldown / cooldown of its type, 0, 1).
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
