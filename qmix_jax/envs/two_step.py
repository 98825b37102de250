"""The two-step cooperative game that VDN cannot solve (Rashid et al. 2018, section 5.1).

In state 1 only agent 1's action matters: A leads to 2A, B to 2B, without reward. The second joint
action pays 7 in 2A, or [[0, 1], [1, 8]] in 2B, and ends the episode. The best return is 8; learners
that cannot represent 2B get 7.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Array, Discrete, EnvSpec, TimeStep

STATES = ("State 1", "2A", "2B")
PAYOFF = np.array([[[0.0, 0.0], [0.0, 0.0]], [[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]])
"""Reward by state and joint action; rows are agent 1's actions."""


class Config(config.Model):
    """Options of the game."""

    exact_gamma: config.Fraction = 0.99
    """Discount of the exact tables in `decision_points`; the game does not use it."""


def make(cfg: Config) -> base.Env:
    """Makes the game; agents observe the state as a one-hot vector.

    The final time step repeats the second state.

    Returns:
      An `Env` whose decision points are the three states.
    """
    spec = EnvSpec(
        name="two_step",
        agent_names=("agent_0", "agent_1"),
        agent_groups=(0, 0),
        actions=Discrete(2),
        obs_shapes=((3,), (3,)),
        obs_shape=(3,),
        state_size=3,
        max_steps=2,
    )

    def timestep(index: Array) -> TimeStep:
        state = jax.nn.one_hot(index, len(STATES), dtype=jnp.float32)
        return base.first_timestep(
            obs=jnp.stack([state, state]), state=state, avail_actions=jnp.ones((2, 2), bool)
        )

    def reset(key: Array) -> tuple[base.EnvState, TimeStep]:
        del key
        index = jnp.zeros((), jnp.int32)
        return index, timestep(index)

    def step(key: Array, env_state: Array, actions: Array) -> tuple[base.EnvState, TimeStep]:
        del key
        reward = jnp.asarray(PAYOFF, jnp.float32)[env_state, actions[0], actions[1]]
        index = jnp.where(env_state == 0, 1 + actions[0], env_state).astype(jnp.int32)
        return index, replace(timestep(index), reward=reward, terminated=env_state > 0)

    def describe(frame: base.Frame) -> str:
        return f"{base.describe_actions(frame)}\n{STATES[int(frame.state)]}"

    return base.team_env(
        spec,
        reset,
        step,
        presentation=base.Presentation(describe=describe),
        game=base.Game(decision_points=_decision_points(cfg.exact_gamma)),
    )


def _decision_points(gamma: float) -> tuple[base.DecisionPoint, ...]:
    tables = {
        "optimal": _joint_tables(gamma, lambda table: table),
        "additive": _joint_tables(gamma, base.additive_fit),
        "independent": _independent_tables(gamma),
    }
    one_hot = np.eye(len(STATES), dtype=np.float32)
    return tuple(
        base.DecisionPoint(
            name=name,
            obs=np.stack([one_hot[i], one_hot[i]]),
            state=one_hot[i],
            optimal=tables["optimal"][i],
            exact={fit: tables[fit][i] for fit in ("additive", "independent")},
        )
        for i, name in enumerate(STATES)
    )


def _joint_tables(gamma: float, fit: Any) -> list[np.ndarray]:
    """f32[2, 2] per state, by backward induction that replaces every table by its fit."""
    second = [fit(payoff) for payoff in PAYOFF[1:]]
    first = gamma * np.array([[table.max()] * 2 for table in second])
    return [table.astype(np.float32) for table in (fit(first), *second)]


def _independent_tables(gamma: float) -> list[np.ndarray]:
    """f32[N, A] per state: agents bootstrap from their own values; the other acts uniformly."""
    second = [np.stack(base.independent_fit(payoff)) for payoff in PAYOFF[1:]]
    target = gamma * np.stack([values.max(axis=1) for values in second])
    first = np.stack([target[:, 0], np.full(2, target[:, 1].mean())])
    return [table.astype(np.float32) for table in (first, *second)]
