"""One-step cooperative matrix games with known optima and known exact fits.

References: QTRAN (Son et al. 2019), QPLEX (Wang et al. 2021), WQMIX (Rashid et al. 2020), QMIX
(Rashid et al. 2018), climbing and penalty games (Claus & Boutilier 1998). Observations and state
are constant vectors of ones, as in WQMIX.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

import jax.numpy as jnp
import numpy as np
from pydantic import BeforeValidator, Field

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Array, Discrete, EnvSpec, TimeStep


def _payoff_tuple(value: object) -> object:
    """Converts to nested tuples of floats, one level per agent, of rectangular shape."""
    if value is None:
        return None
    try:
        table = np.asarray(value)
    except ValueError as error:
        raise ValueError("rows must be of equal length") from error
    if table.ndim < 2 or table.size == 0 or table.dtype.kind not in "iuf":
        raise ValueError("must be numbers nested once per agent, such as [[8, -12], [-12, 0]]")
    if not np.isfinite(table).all():
        raise ValueError("must be finite numbers")
    return _nested(table.astype(float).tolist())


def _nested(value: Any) -> Any:
    return tuple(map(_nested, value)) if isinstance(value, list) else value


Game = Literal["Q3", "HARD", "P2", "G104", "CLIMB", "PEN", "COORD", "2B"]
GAMES: tuple[str, ...] = get_args(Game)
"""Named games; the decision point of each has its optimum and exact fits."""


class Config(config.Model):
    """A named game or a user-defined payoff, not both."""

    game: Game | None = "Q3"
    """A named game; null if `payoff` is set."""
    payoff: Annotated[tuple[Any, ...], BeforeValidator(_payoff_tuple)] | None = None
    """Team reward by joint action, nested once per agent: `payoff[a_1][a_2]` for two agents."""
    penalty: Annotated[float, Field(le=0)] = -100.0
    """k <= 0, the reward of two corners of PEN; unused by other games."""
    obs_size: config.PositiveInt = 5
    """Length of observations and state, vectors of ones."""


def _named(game: str, k: float) -> list[list[float]]:
    """Rows are agent 1's actions."""
    return {
        "Q3": [[8.0, -12, -12], [-12, 0, 0], [-12, 0, 0]],
        "HARD": [[8.0, -12, -12], [-12, 6, 0], [-12, 0, 6]],
        "P2": [[12, -0.1, -0.1], [-0.1, 0, 0], [-0.1, 0, 0]],
        "G104": [[10.4, 0, 10], [0, 10, 10], [10, 10, 10]],
        "CLIMB": [[11.0, -30, 0], [-30, 7, 6], [0, 0, 5]],
        "PEN": [[k, 0, 10], [0, 2, 0], [10, 0, k]],
        "COORD": [[1.0, 0], [0, 1]],
        "2B": [[0.0, 1], [1, 8]],
    }[game]


def _payoff(cfg: Config) -> np.ndarray:
    if cfg.payoff is not None and cfg.game is not None:
        raise config.ConfigError(
            f"env matrix: game={cfg.game!r} and payoff are both set; to play payoff set game=null"
        )
    if cfg.payoff is not None:
        return np.array(cfg.payoff)
    if cfg.game is None:
        raise config.ConfigError("env matrix: game and payoff are both null; set one of them")
    return np.array(_named(cfg.game, cfg.penalty))


def make(cfg: Config) -> base.Env:
    """Makes a one-step game whose reward is the payoff of the joint action.

    Agents may have different numbers of actions, which are padded. The env state is empty.

    Returns:
      An `Env` with one decision point, `payoff`, whose optimum is the payoff.
    Raises:
      ConfigError: `game` and `payoff` both set or both null.
    """
    payoff = _payoff(cfg)
    n_agents, n_actions = payoff.ndim, payoff.shape
    spec = EnvSpec(
        name=f"matrix/{cfg.game or 'x'.join(map(str, n_actions))}",
        agent_names=tuple(f"agent_{i}" for i in range(n_agents)),
        agent_groups=base.group_indices(n_actions),
        actions=Discrete(n_actions),
        obs_shapes=((cfg.obs_size,),) * n_agents,
        obs_shape=(cfg.obs_size,),
        state_size=cfg.obs_size,
        max_steps=1,
    )

    def timestep() -> TimeStep:
        return base.first_timestep(
            obs=jnp.ones((n_agents, cfg.obs_size), jnp.float32),
            state=jnp.ones((cfg.obs_size,), jnp.float32),
            avail_actions=jnp.asarray(spec.actions.exists),
        )

    def reset(key: Array) -> tuple[base.EnvState, TimeStep]:
        del key
        return (), timestep()

    def step(key: Array, env_state: base.EnvState, actions: Array) -> tuple[Any, TimeStep]:
        del key
        reward = jnp.asarray(payoff, jnp.float32)[tuple(actions)]
        return env_state, replace(timestep(), reward=reward, terminated=jnp.ones((), bool))

    point = _decision_point(payoff, cfg.obs_size)
    return base.team_env(
        spec,
        reset,
        step,
        presentation=base.Presentation(describe=base.describe_actions),
        game=base.Game(decision_points=(point,)),
    )


def _decision_point(payoff: np.ndarray, obs_size: int) -> base.DecisionPoint:
    shape = (max(payoff.shape),) * payoff.ndim
    return base.DecisionPoint(
        name="payoff",
        obs=np.ones((payoff.ndim, obs_size), np.float32),
        state=np.ones((obs_size,), np.float32),
        optimal=base.pad_with_nan(payoff, shape),
        exact={
            "additive": base.pad_with_nan(base.additive_fit(payoff), shape),
            "independent": np.stack(
                [base.pad_with_nan(fit, shape[:1]) for fit in base.independent_fit(payoff)]
            ),
        },
    )
