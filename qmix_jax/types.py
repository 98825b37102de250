"""Shared records. Axes: T time, B environments or sampled sequences, N agents, A actions, O obs,
S state, H hidden. The order is always `[T, B, N, ...]`; the population axis P never appears here.
"""

import dataclasses
import typing
from typing import Any

import chex
import jax
import numpy as np

Array = jax.Array
Device: typing.TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]
T = typing.TypeVar("T")


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[T]) -> type[T]:
    """Makes a record with arrays: a frozen, keyword-only `chex.dataclass`, which is a pytree."""
    return chex.dataclass(frozen=True)(cls)


Metrics = dict[str, tuple[Array, Array]]
"""`group/name` -> (sum f32[], count f32[]): ratios travel as sum and count."""


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """What a network or a buffer must know of an environment; static.

    Attributes:
      name: shown to people, for example `HeuristicEnemySMAX/3m`.
      agent_names: one name per agent, in the order of the agent axis.
      agent_groups: one group index per agent; agents of a group have the same observation and
        action sizes and the same role.
      n_actions: number of actions of each agent; actions beyond it are never available.
      obs_shapes: true observation shape of each agent, before padding.
      obs_shape: the padded shape that all agents share: `(O,)`, or an image's (height, width,
        channels).
      state_size: S.
      max_steps: the longest possible episode in env steps (the true limit: SMAX 101, MPE 26).
      metric_names: names in `TimeStep.metrics`.
      agent_state: i32[N, F], columns of `state` that describe agent i, or None where there are
        none.
      obs_bounds, state_bounds: (lowest, highest) value of any entry, None where not known.
      best_metrics: (name, `max` or `min`) of what evaluations are compared by, the most important
        first; those that there are count: of `return`, `length` and `metric_names`.
    """

    name: str
    agent_names: tuple[str, ...]
    agent_groups: tuple[int, ...]
    n_actions: tuple[int, ...]
    obs_shapes: tuple[tuple[int, ...], ...]
    obs_shape: tuple[int, ...]
    state_size: int
    max_steps: int
    metric_names: tuple[str, ...] = ()
    agent_state: np.ndarray | None = None
    obs_bounds: tuple[float, float] | None = None
    state_bounds: tuple[float, float] | None = None
    best_metrics: tuple[tuple[str, str], ...] = (("win_rate", "max"), ("return", "max"))

    @property
    def n_agents(self) -> int:
        """N."""
        return len(self.agent_names)

    @property
    def n_actions_max(self) -> int:
        """A, the width of every action axis."""
        return max(self.n_actions)


@record
class TimeStep:
    """What an environment shows after `reset` or `step`; one environment, no batch axis.

    Attributes:
      obs: f32[N, O], zero-padded to the widest agent.
      state: f32[S], seen by training only.
      avail_actions: bool[N, A], True = allowed; at least one True per agent, dead agents included.
      reward: f32[], raw team reward of the action that led here; 0 after `reset`.
      terminated: bool[], that action ended the episode by the task.
      truncated: bool[], that action hit the time limit and did not terminate.
      metrics: name -> f32[]; the value at an episode's last step is the episode's.
    """

    obs: Array
    state: Array
    avail_actions: Array
    reward: Array
    terminated: Array
    truncated: Array
    metrics: dict[str, Array]


@record
class Start:
    """Where sequences begin that continue an episode: `carry`, the agent's before the first step
    (leading axis B), and `prev_actions` i32[B, N] (-1 = none).
    """

    carry: Any
    prev_actions: Array


@record
class Trajectory:
    """A batch of sequences. Entry t+1 is the successor of t unless `reset[t+1]`.

    Attributes:
      obs: f32[T+1, B, N, O].
      state: f32[T+1, B, S].
      avail_actions: bool[T+1, B, N, A].
      reset: bool[T+1, B], entry t is the first of an episode.
      actions: i32[T, B, N].
      reward: f32[T, B], raw.
      terminated: bool[T, B], the action at t ended the episode by the task.
      valid: bool[T, B], the transition happened, is learnt from, and its successor is stored or not
        needed.
      start: where the sequences begin; None if all begin with an episode.
    """

    obs: Array
    state: Array
    avail_actions: Array
    reset: Array
    actions: Array
    reward: Array
    terminated: Array
    valid: Array
    start: Start | None = None


@record
class Batch:
    """Sampled sequences: `trajectory` with B sequences, `weight` f32[B], `index` i32[B]."""

    trajectory: Trajectory
    weight: Array
    index: Array


@record
class Schedule:
    """Linear from `start` to `end` over `steps`, then constant; scalars f32[]."""

    start: Array
    end: Array
    steps: Array


@record
class HParams:
    """Numbers that may differ between members: scalars f32[], never a shape or a branch.

    Attributes:
      learning_rate: over gradient steps.
      epsilon: exploration rate over env steps.
      gamma: discount in [0, 1].
      td_lambda: mixes multi-step targets, in [0, 1]; 0 is one-step.
      reward_scale: multiplies the raw reward inside the loss.
      max_grad_norm: joint global-norm clip.
      target_period: gradient steps between target updates.
      target_tau: share of the online parameters in a target update; 1 is a hard copy.
      huber_delta: TD error at which the Huber loss turns linear.
      algo: the factorisation's own numbers, name -> f32[].
    """

    learning_rate: Schedule
    epsilon: Schedule
    gamma: Array
    td_lambda: Array
    reward_scale: Array
    max_grad_norm: Array
    target_period: Array
    target_tau: Array
    huber_delta: Array
    algo: dict[str, Any]


@record
class Clock:
    """Where a run stands; the same for all members, so never batched. All i32[] but `env_steps`.

    Attributes:
      update_index: updates (one collect and K gradient steps each) done before this one.
      gradient_step: gradient steps done before this one.
      env_steps: f32[], env steps collected before this update (f32 because i32 overflows at 2.1e9).
      n_added: sequences added to the replay before this update, warm-up included.
    """

    update_index: Array
    gradient_step: Array
    env_steps: Array
    n_added: Array
