"""Predator-prey with punished miscoordination (Boehmer et al. 2020; Rashid et al. 2020, WQMIX).

Agents hunt prey on a bounded grid. A prey is caught when at least two agents next to it (not
diagonally) choose to catch in the same step; fewer are punished. Agents that catch a prey are
frozen: they leave the grid with the prey, observe zeros and can only stay. With eight agents the
best return is four catches of 10 each: 40.

In a step, agents move one after another in random order, unless the target cell is occupied. Then
prey, also in random order, are caught, or attempts to catch them punished; uncaught ones move to a
random free adjacent cell. Deviation: none known from the authors' published code.
"""

from dataclasses import replace
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Array, Discrete, EnvSpec, TimeStep, record

MOVES = np.array([[0, 1], [1, 0], [0, -1], [-1, 0], [0, 0], [0, 0]], np.int32)
"""(row, column) offset of each action: right, down, left, up, stay, catch."""
STAY, CATCH = 4, 5
_PLANES = 3
"""Agents, prey, and the hares of the published code, which are absent here: zeros."""


class Config(config.Model):
    """Options of the task; by default the published one."""

    size: config.PositiveInt = 10
    """Cells per side of the grid."""
    n_agents: config.PositiveInt = 8
    """N."""
    n_prey: config.PositiveInt = 8
    """Initial number of prey."""
    view_radius: Annotated[config.Int, Field(ge=0)] = 2
    """r: agents observe a centred square of 2 r + 1 cells per side."""
    catchers: config.PositiveInt = 2
    """Agents needed to catch a prey."""
    capture_reward: float = 10.0
    """Team reward for each prey caught."""
    punishment: Annotated[float, Field(le=0)] = -2.0
    """Team reward for each prey that too few agents try to catch."""
    prey_rest: config.Fraction = 0.0
    """Probability that a prey does not move."""
    max_steps: config.PositiveInt = 200
    """Limit on env steps per episode."""


@record
class PredatorPreyState:
    """Positions i32[., 2] are (row, column); `active` bool[N]: not frozen; `alive` bool[M]: not
    caught; `step` i32[].
    """

    agents: Array
    prey: Array
    active: Array
    alive: Array
    step: Array


def make(cfg: Config) -> base.Env:
    """Makes the task; metric `captures` is the number of prey caught.

    `terminated` when no prey or no active agent is left, `truncated` after `max_steps`. The state
    is the flattened grid `[size, size, 3]`. Moves off the grid are unavailable; catching is
    available next to a prey.

    Raises: ConfigError if there are more agents and prey than cells.
    """
    n_actors, cells = cfg.n_agents + cfg.n_prey, cfg.size**2
    if n_actors > cells:
        raise config.ConfigError(
            f"env predator_prey: n_agents={cfg.n_agents} and n_prey={cfg.n_prey} need more than "
            f"the {cells} cells of size={cfg.size}; raise size"
        )
    spec = _spec(cfg)

    def reset(key: Array) -> tuple[PredatorPreyState, TimeStep]:
        cell = jax.random.permutation(key, cells)[:n_actors]
        positions = jnp.stack([cell // cfg.size, cell % cfg.size], axis=1).astype(jnp.int32)
        state = PredatorPreyState(
            agents=positions[: cfg.n_agents],
            prey=positions[cfg.n_agents :],
            active=jnp.ones((cfg.n_agents,), bool),
            alive=jnp.ones((cfg.n_prey,), bool),
            step=jnp.zeros((), jnp.int32),
        )
        return state, _timestep(cfg, spec, state)

    def step(
        key: Array, env_state: PredatorPreyState, actions: Array
    ) -> tuple[PredatorPreyState, TimeStep]:
        key_agents, key_prey = jax.random.split(key)
        moved = _move_agents(cfg, key_agents, env_state, actions)
        state, reward = _move_prey(cfg, key_prey, moved, actions)
        state = replace(state, step=env_state.step + 1)
        terminated = ~state.alive.any() | ~state.active.any()
        truncated = (state.step >= cfg.max_steps) & ~terminated
        captures = jnp.sum(~state.alive).astype(jnp.float32)
        return state, replace(
            _timestep(cfg, spec, state),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            metrics={"captures": jnp.where(terminated | truncated, captures, 0.0)},
        )

    return base.team_env(spec, reset, step, base.Presentation(scene=_scene(cfg)))


def _scene(cfg: Config) -> base.Scene:
    def arrays(state: PredatorPreyState) -> dict[str, Array]:
        return {
            "prey": state.prey,
            "prey_there": state.alive,
            "agents": state.agents,
            "agents_there": state.active,
        }

    piece = {"size": 0.72, "numbered": False, "offset": (0, 0)}
    constants = {
        "rows": cfg.size,
        "columns": cfg.size,
        "kinds": {
            "prey": {**piece, "shape": "D", "size": 0.5, "colours": ("#d55e00",)},
            "agents": {**piece, "shape": "o", "numbered": True, "colours": ("#0072b2",)},
        },
        "actors": "agents",
        "marked_action": CATCH,
    }
    return base.Scene("cells", arrays, constants)


def _spec(cfg: Config) -> EnvSpec:
    obs_shape = ((2 * cfg.view_radius + 1) ** 2 * _PLANES,)
    return EnvSpec(
        name=f"predator_prey/{cfg.n_agents}_vs_{cfg.n_prey}",
        agent_names=tuple(f"agent_{i}" for i in range(cfg.n_agents)),
        agent_groups=(0,) * cfg.n_agents,
        actions=Discrete(len(MOVES)),
        obs_shapes=(obs_shape,) * cfg.n_agents,
        obs_shape=obs_shape,
        state_size=cfg.size**2 * _PLANES,
        max_steps=cfg.max_steps,
        metric_names=("captures",),
        obs_bounds=(0.0, 1.0),
        state_bounds=(0.0, 1.0),
    )


def _inside(cfg: Config, cell: Array) -> Array:
    """bool[...], whether cells i32[..., 2] are on the grid."""
    return ((cell >= 0) & (cell < cfg.size)).all(axis=-1)


def _occupied(state: PredatorPreyState, cell: Array) -> Array:
    """bool[], whether an active agent or a living prey is on the cell i32[2]."""
    by_agent = state.active & (state.agents == cell).all(axis=1)
    by_prey = state.alive & (state.prey == cell).all(axis=1)
    return by_agent.any() | by_prey.any()


def _adjacent(a: Array, b: Array) -> Array:
    """bool[I, J], whether cells i32[I, 2] and i32[J, 2] are adjacent."""
    return jnp.abs(a[:, None] - b).sum(axis=-1) == 1


def _move_agents(
    cfg: Config, key: Array, state: PredatorPreyState, actions: Array
) -> PredatorPreyState:
    moves = jnp.asarray(MOVES)

    def move(state: PredatorPreyState, i: Array) -> tuple[PredatorPreyState, None]:
        target = state.agents[i] + moves[actions[i]]
        free = state.active[i] & _inside(cfg, target) & ~_occupied(state, target)
        position = jnp.where(free, target, state.agents[i])
        return replace(state, agents=state.agents.at[i].set(position)), None

    return jax.lax.scan(move, state, jax.random.permutation(key, cfg.n_agents))[0]


def _move_prey(
    cfg: Config, key: Array, state: PredatorPreyState, actions: Array
) -> tuple[PredatorPreyState, Array]:
    """Catches, punishments and moves: the state, and the team reward f32[]."""
    key_order, key_rest, key_move = jax.random.split(key, 3)
    moves = jnp.asarray(MOVES[:4])
    resting = jax.random.uniform(key_rest, (cfg.n_prey,)) < cfg.prey_rest
    preference = jax.random.uniform(key_move, (cfg.n_prey, len(moves)))

    def catch_or_move(carry: tuple[PredatorPreyState, Array], j: Array) -> tuple[Any, None]:
        state, reward = carry
        adjacent = _adjacent(state.agents, state.prey[j][None])[:, 0]
        catching = adjacent & state.active & (actions == CATCH) & state.alive[j]
        caught = catching.sum() >= cfg.catchers
        reward_j = jnp.where(catching.any(), cfg.punishment, 0.0)
        reward_j = jnp.where(caught, cfg.capture_reward, reward_j)
        targets = state.prey[j] + moves
        free = _inside(cfg, targets) & ~jax.vmap(lambda cell: _occupied(state, cell))(targets)
        target = targets[jnp.argmax(jnp.where(free, preference[j], -1.0))]
        position = jnp.where(free.any() & ~resting[j], target, state.prey[j])
        state = replace(
            state,
            prey=state.prey.at[j].set(position),
            alive=state.alive.at[j].set(state.alive[j] & ~caught),
            active=state.active & ~(caught & catching),
        )
        return (state, reward + reward_j), None

    order = jax.random.permutation(key_order, cfg.n_prey)
    return jax.lax.scan(catch_or_move, (state, jnp.zeros(())), order)[0]


def _timestep(cfg: Config, spec: EnvSpec, state: PredatorPreyState) -> TimeStep:
    r = cfg.view_radius
    grid = jnp.zeros((cfg.size, cfg.size, _PLANES))
    grid = grid.at[state.agents[:, 0], state.agents[:, 1], 0].max(state.active.astype(jnp.float32))
    grid = grid.at[state.prey[:, 0], state.prey[:, 1], 1].max(state.alive.astype(jnp.float32))
    padded = jnp.pad(grid, ((r, r), (r, r), (0, 0)))

    def window(position: Array) -> Array:
        corner = (position[0], position[1], 0)
        return jax.lax.dynamic_slice(padded, corner, (2 * r + 1, 2 * r + 1, _PLANES)).ravel()

    can_move = _inside(cfg, state.agents[:, None] + jnp.asarray(MOVES[:CATCH]))
    can_catch = (_adjacent(state.agents, state.prey) & state.alive).any(axis=1, keepdims=True)
    avail = jnp.concatenate([can_move, can_catch], axis=1) & state.active[:, None]
    return base.first_timestep(
        obs=jnp.where(state.active[:, None], jax.vmap(window)(state.agents), 0.0),
        state=grid.ravel(),
        avail_actions=avail.at[:, STAY].set(True),
        metric_names=spec.metric_names,
    )
