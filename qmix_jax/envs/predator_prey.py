"""Predator-prey with punished miscoordination (Boehmer et al. 2020; Rashid et al. 2020, WQMIX).

Agents chase prey on a bounded grid. A prey is caught when at least two agents next to it (not
diagonally) choose to catch in the same step; too few of them are punished. Agents that took part
are frozen: they and the caught prey leave the grid, they observe zeros and can only stay. With
eight agents, the best return is four catches of ten: 40.

A step: agents move one after another in random order, each unless its target cell is taken; then
the prey, also in random order: it is caught, or punished attempts count, or it moves to a random
free neighbouring cell. Deviation: none known from the authors' published code.
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
"""Row and column that each action adds: right, down, left, up, stay, catch."""
STAY, CATCH = 4, 5
_PLANES = 3
"""Agents, prey, and the hares of the published code, of which this task has none: zeros."""


class Config(config.Model):
    """The published task; every number can be changed."""

    size: config.PositiveInt = 10
    """Cells along each side of the grid."""
    n_agents: config.PositiveInt = 8
    """N."""
    n_prey: config.PositiveInt = 8
    """Prey at first."""
    view_radius: Annotated[config.Int, Field(ge=0)] = 2
    """Agents see a square of 2 r + 1 cells a side, themselves in the middle."""
    catchers: config.PositiveInt = 2
    """Agents that must catch the same prey together."""
    capture_reward: float = 10.0
    """Team reward for each prey caught."""
    punishment: Annotated[float, Field(le=0)] = -2.0
    """Team reward for each prey that some, but too few, agents try to catch."""
    prey_rest: config.Fraction = 0.0
    """Probability that a prey stays where it is."""
    max_steps: config.PositiveInt = 200
    """Env steps per episode, at most."""


@record
class PredatorPreyState:
    """Positions are rows and columns i32[., 2]; `active` bool[N] are not frozen, `alive` bool[M]
    not caught; `step` i32[].
    """

    agents: Array
    prey: Array
    active: Array
    alive: Array
    step: Array


def make(cfg: Config) -> base.Env:
    """The task; metric `captures` is the number of prey caught.

    `terminated` when no prey or no active agent is left, `truncated` after `max_steps`. The state
    is the grid, `[size, size, 3]` in a row. Moves off the grid are never available, catching only
    next to a prey.

    Args:
      cfg: the numbers.
    Raises:
      ConfigError: more agents and prey than cells.
    """
    n_actors, cells = cfg.n_agents + cfg.n_prey, cfg.size**2
    if n_actors > cells:
        raise config.ConfigError(
            f"env predator_prey: n_agents={cfg.n_agents} and n_prey={cfg.n_prey} need more than "
            f"the {cells} cells of size={cfg.size}; raise size"
        )
    spec = _spec(cfg)

    def reset(key: Array) -> tuple[PredatorPreyState, TimeStep]:
        chosen = jax.random.permutation(key, cells)[:n_actors]
        places = jnp.stack([chosen // cfg.size, chosen % cfg.size], axis=1).astype(jnp.int32)
        state = PredatorPreyState(
            agents=places[: cfg.n_agents],
            prey=places[cfg.n_agents :],
            active=jnp.ones((cfg.n_agents,), bool),
            alive=jnp.ones((cfg.n_prey,), bool),
            step=jnp.zeros((), jnp.int32),
        )
        return state, _show(cfg, spec, state)

    def step(
        key: Array, env_state: PredatorPreyState, actions: Array
    ) -> tuple[PredatorPreyState, TimeStep]:
        key_agents, key_prey = jax.random.split(key)
        moved = _move_agents(cfg, key_agents, env_state, actions)
        after, reward = _move_prey(cfg, key_prey, moved, actions)
        after = replace(after, step=env_state.step + 1)
        terminated = ~after.alive.any() | ~after.active.any()
        truncated = (after.step >= cfg.max_steps) & ~terminated
        captures = jnp.sum(~after.alive).astype(jnp.float32)
        return after, replace(
            _show(cfg, spec, after),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            metrics={"captures": jnp.where(terminated | truncated, captures, 0.0)},
        )

    return base.team_env(spec, reset, step, base.Presentation(scene=_scene(cfg)))


def _scene(cfg: Config) -> base.Scene:
    def look(state: PredatorPreyState) -> dict[str, Array]:
        return {
            "prey": state.prey,
            "prey_there": state.alive,
            "agents": state.agents,
            "agents_there": state.active,
        }

    piece = {"size": 0.72, "numbered": False, "offset": (0, 0)}
    facts = {
        "rows": cfg.size,
        "columns": cfg.size,
        "kinds": {
            "prey": {**piece, "shape": "D", "size": 0.5, "colours": ("#d55e00",)},
            "agents": {**piece, "shape": "o", "numbered": True, "colours": ("#0072b2",)},
        },
        "actors": "agents",
        "marked_action": CATCH,
    }
    return base.Scene("cells", look, facts)


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
    """bool[...], is the cell i32[..., 2] on the grid?"""
    return ((cell >= 0) & (cell < cfg.size)).all(axis=-1)


def _taken(state: PredatorPreyState, cell: Array) -> Array:
    """bool[], does an active agent or a living prey stand on the cell i32[2]?"""
    by_agent = state.active & (state.agents == cell).all(axis=1)
    by_prey = state.alive & (state.prey == cell).all(axis=1)
    return by_agent.any() | by_prey.any()


def _adjacent(these: Array, those: Array) -> Array:
    """bool[I, J], are the cells i32[I, 2] and i32[J, 2] neighbours?"""
    return jnp.abs(these[:, None] - those).sum(axis=-1) == 1


def _move_agents(
    cfg: Config, key: Array, state: PredatorPreyState, actions: Array
) -> PredatorPreyState:
    moves = jnp.asarray(MOVES)

    def move(state: PredatorPreyState, i: Array) -> tuple[PredatorPreyState, None]:
        target = state.agents[i] + moves[actions[i]]
        free = state.active[i] & _inside(cfg, target) & ~_taken(state, target)
        place = jnp.where(free, target, state.agents[i])
        return replace(state, agents=state.agents.at[i].set(place)), None

    return jax.lax.scan(move, state, jax.random.permutation(key, cfg.n_agents))[0]


def _move_prey(
    cfg: Config, key: Array, state: PredatorPreyState, actions: Array
) -> tuple[PredatorPreyState, Array]:
    """Catches, punishments and moves; the state and the team reward f32[]."""
    key_order, key_rest, key_move = jax.random.split(key, 3)
    moves = jnp.asarray(MOVES[:4])
    resting = jax.random.uniform(key_rest, (cfg.n_prey,)) < cfg.prey_rest
    taste = jax.random.uniform(key_move, (cfg.n_prey, len(moves)))

    def treat(carry: tuple[PredatorPreyState, Array], j: Array) -> tuple[Any, None]:
        state, reward = carry
        near = _adjacent(state.agents, state.prey[j][None])[:, 0]
        catching = near & state.active & (actions == CATCH) & state.alive[j]
        caught = catching.sum() >= cfg.catchers
        paid = jnp.where(catching.any(), cfg.punishment, 0.0)
        paid = jnp.where(caught, cfg.capture_reward, paid)
        targets = state.prey[j] + moves
        free = _inside(cfg, targets) & ~jax.vmap(lambda cell: _taken(state, cell))(targets)
        moves_on = free.any() & ~resting[j]
        chosen = jnp.argmax(jnp.where(free, taste[j], -1.0))
        place = jnp.where(moves_on, targets[chosen], state.prey[j])
        after = replace(
            state,
            prey=state.prey.at[j].set(place),
            alive=state.alive.at[j].set(state.alive[j] & ~caught),
            active=state.active & ~(caught & catching),
        )
        return (after, reward + paid), None

    order = jax.random.permutation(key_order, cfg.n_prey)
    return jax.lax.scan(treat, (state, jnp.zeros(())), order)[0]


def _show(cfg: Config, spec: EnvSpec, state: PredatorPreyState) -> TimeStep:
    r = cfg.view_radius
    grid = jnp.zeros((cfg.size, cfg.size, _PLANES))
    grid = grid.at[state.agents[:, 0], state.agents[:, 1], 0].max(state.active.astype(jnp.float32))
    grid = grid.at[state.prey[:, 0], state.prey[:, 1], 1].max(state.alive.astype(jnp.float32))
    padded = jnp.pad(grid, ((r, r), (r, r), (0, 0)))

    def window(place: Array) -> Array:
        corner = (place[0], place[1], 0)
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
