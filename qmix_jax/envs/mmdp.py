"""A two-state process on which linear factorisations may diverge (Wang et al. 2021, QPLEX).

In state A the joint action (0, 0) pays 1, and (1, 1) leads to B, which pays nothing and cannot be
left. The best return of 100 steps is 100, or 63.397 discounted by 0.99. Values bootstrap through
the time limit, so exact values are those of an infinite horizon: 100, not 63.397.
trainer.truncation=terminate gives the published form, in which the limit terminates.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Array, Discrete, EnvSpec, TimeStep, record

STATES = ("A", "B")


class Config(config.Model):
    """Options of the process; by default the published one."""

    max_steps: config.PositiveInt = 100
    """Env steps per episode."""
    exact_gamma: config.Fraction = 0.99
    """Discount of the exact tables in `decision_points`; the process does not use it."""


@record
class MMDPState:
    """`index` i32[], into `STATES`; `step` i32[]."""

    index: Array
    step: Array


def make(cfg: Config) -> base.Env:
    """Makes the process; both agents observe the state as a one-hot vector.

    Returns:
      An `Env` whose decision points are the two states; `exact` is empty because no fit has a
      limit.
    Raises:
      ConfigError: a discount of 1, for which values are infinite.
    """
    if cfg.exact_gamma == 1:
        raise config.ConfigError("env mmdp: exact_gamma=1.0 has infinite values; set it below 1")
    spec = EnvSpec(
        name="mmdp",
        agent_names=("agent_0", "agent_1"),
        agent_groups=(0, 0),
        actions=Discrete(2),
        obs_shapes=((2,), (2,)),
        obs_shape=(2,),
        state_size=2,
        max_steps=cfg.max_steps,
        obs_bounds=(0.0, 1.0),
        state_bounds=(0.0, 1.0),
    )

    def timestep(index: Array) -> TimeStep:
        state = jax.nn.one_hot(index, len(STATES), dtype=jnp.float32)
        return base.first_timestep(
            obs=jnp.stack([state, state]), state=state, avail_actions=jnp.ones((2, 2), bool)
        )

    def reset(key: Array) -> tuple[MMDPState, TimeStep]:
        del key
        zero = jnp.zeros((), jnp.int32)
        return MMDPState(index=zero, step=zero), timestep(zero)

    def step(key: Array, env_state: MMDPState, actions: Array) -> tuple[MMDPState, TimeStep]:
        del key
        reward = ((env_state.index == 0) & (actions == 0).all()).astype(jnp.float32)
        index = jnp.where((actions == 1).all(), 1, env_state.index).astype(jnp.int32)
        next_state = MMDPState(index=index, step=env_state.step + 1)
        truncated = next_state.step >= cfg.max_steps
        return next_state, replace(timestep(index), reward=reward, truncated=truncated)

    def describe(frame: base.Frame) -> str:
        return f"{base.describe_actions(frame)}\nstate {STATES[int(frame.state.index)]}"

    return base.team_env(
        spec,
        reset,
        step,
        presentation=base.Presentation(describe=describe),
        game=base.Game(decision_points=_decision_points(cfg.exact_gamma)),
    )


def _decision_points(gamma: float) -> tuple[base.DecisionPoint, ...]:
    future = gamma / (1 - gamma)
    tables = np.array([[[1 + future, future], [future, 0]], np.zeros((2, 2))], np.float32)
    one_hot = np.eye(len(STATES), dtype=np.float32)
    return tuple(
        base.DecisionPoint(
            name=name,
            obs=np.stack([one_hot[i], one_hot[i]]),
            state=one_hot[i],
            optimal=tables[i],
            exact={},
        )
        for i, name in enumerate(STATES)
    )
