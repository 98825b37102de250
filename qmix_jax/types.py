"""Shared records. Axes: T time, B environments or sampled sequences, N agents, A actions, O obs,
S state, H hidden. The order is always `[T, B, N, ...]`; the population axis P never appears here.
"""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Device: typing.TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]
T = typing.TypeVar("T")


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[T]) -> type[T]:
    """Decorates a record of arrays: a frozen, keyword-only `chex.dataclass`, which is a pytree."""
    return chex.dataclass(frozen=True)(cls)


Metrics = dict[str, tuple[Array, Array]]
"""`group/name` -> (sum f32[], count f32[]), so that means can be merged."""


@dataclasses.dataclass(frozen=True, init=False)
class Discrete:
    """A finite set of actions per agent: i32[N], -1 before the first action.

    Attributes:
      sizes: number of actions of each agent; a single number in an `EnvSpec` applies to all
        agents. Actions beyond an agent's number are padding and never available.
    """

    sizes: tuple[int, ...]

    def __init__(self, sizes: Sequence[int] | int) -> None:
        object.__setattr__(self, "sizes", (sizes,) if isinstance(sizes, int) else tuple(sizes))

    @property
    def n_agents(self) -> int:
        """N."""
        return len(self.sizes)

    @property
    def width(self) -> int:
        """A, the width of every action axis."""
        return max(self.sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one joint action, (N,)."""
        return (self.n_agents,)

    @property
    def dtype(self) -> Any:
        """i32."""
        return jnp.int32

    @property
    def stored_dtype(self) -> Any:
        """The smallest signed type that holds every action, for replay."""
        return np.min_scalar_type(-self.width)

    @property
    def exists(self) -> np.ndarray:
        """bool[N, A], True for the actions that each agent has, False for padding."""
        return np.arange(self.width) < np.array(self.sizes)[:, None]

    def none(self) -> Array:
        """Returns i32[N], the previous actions at the start of an episode."""
        return no_action(jnp.zeros(self.shape, self.dtype))

    def features(self, actions: Array) -> Array:
        """Converts i32[..., N] to network inputs f32[..., N, A]: one-hot, zeros for no action."""
        return jax.nn.one_hot(actions, self.width)


@dataclasses.dataclass(frozen=True, init=False)
class Box:
    """A vector of real numbers per agent: f32[N, D], zeros before the first action.

    Attributes:
      sizes: number of dimensions of each agent; a single number in an `EnvSpec` applies to all
        agents. Dimensions beyond an agent's number are padding, which the environment ignores.
      low, high: bounds of every dimension.
    """

    sizes: tuple[int, ...]
    low: float
    high: float

    def __init__(self, sizes: Sequence[int] | int, low: float = -1.0, high: float = 1.0) -> None:
        object.__setattr__(self, "sizes", (sizes,) if isinstance(sizes, int) else tuple(sizes))
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def n_agents(self) -> int:
        """N."""
        return len(self.sizes)

    @property
    def width(self) -> int:
        """D, the width of every action axis."""
        return max(self.sizes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one joint action, (N, D)."""
        return (self.n_agents, self.width)

    @property
    def dtype(self) -> Any:
        """f32."""
        return jnp.float32

    @property
    def stored_dtype(self) -> Any:
        """f32, for replay."""
        return np.dtype(np.float32)

    @property
    def exists(self) -> np.ndarray:
        """bool[N, D], True for the dimensions that each agent has; `TimeStep.avail_actions`."""
        return np.arange(self.width) < np.array(self.sizes)[:, None]

    def none(self) -> Array:
        """Returns f32[N, D], the previous actions at the start of an episode."""
        return no_action(jnp.zeros(self.shape, self.dtype))

    def features(self, actions: Array) -> Array:
        """Returns the actions, f32[..., N, D], which are network inputs as they are."""
        return actions


Actions = Discrete | Box


def no_action(actions: Array) -> Array:
    """Returns the fill value for missing previous actions: -1 for discrete, 0 for continuous."""
    is_discrete = jnp.issubdtype(actions.dtype, jnp.integer)
    return jnp.full_like(actions, -1 if is_discrete else 0)


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """Static description of an environment.

    Attributes:
      name: display name, for example `HeuristicEnemySMAX/3m`.
      agent_names: one name per agent, in the order of the agent axis.
      agent_groups: one group index per agent; agents of a group have the same observation and
        action sizes and the same role.
      actions: `Discrete` or `Box`; a single size applies to all agents.
      obs_shapes: true observation shape of each agent, before padding.
      obs_shape: the padded shape of all agents: `(O,)`, or an image's (height, width, channels).
      state_size: S.
      max_steps: the longest possible episode in env steps (the true limit: SMAX 101, MPE 26).
      metric_names: names in `TimeStep.metrics`.
      best_metrics: (evaluation metric, `max` or `min`) that select the best parameters, in order of
        priority; metrics that an environment does not have are skipped.
      scored_agents: indices of the agents whose mean return is `eval/return` if there is no team
        reward; None for all.
      obs_blocks: (name, width) of the parts of an observation vector, in order; None if unnamed.
      agent_state: i32[N, F], columns of `state` that describe agent i; None if there are none.
      obs_bounds, state_bounds: (lowest, highest) value of any entry, None if unknown.
      neighbours: bool[N, N], row i True for the neighbours of agent i, if constant; None: everyone,
        or as each `TimeStep` states.
      n_states: number of states of a tabular game, whose observation f32[N, 1] is the state's
        index; None for other environments.
      zero_sum: two agents whose rewards add up to zero at every step.
    """

    name: str
    agent_names: tuple[str, ...]
    agent_groups: tuple[int, ...]
    actions: Actions
    obs_shapes: tuple[tuple[int, ...], ...]
    obs_shape: tuple[int, ...]
    state_size: int
    max_steps: int
    metric_names: tuple[str, ...] = ()
    best_metrics: tuple[tuple[str, str], ...] = (("win_rate", "max"), ("return", "max"))
    scored_agents: tuple[int, ...] | None = None
    obs_blocks: tuple[tuple[str, int], ...] | None = None
    agent_state: np.ndarray | None = None
    obs_bounds: tuple[float, float] | None = None
    state_bounds: tuple[float, float] | None = None
    neighbours: np.ndarray | None = None
    n_states: int | None = None
    zero_sum: bool = False

    def __post_init__(self) -> None:
        if len(self.actions.sizes) == 1 < self.n_agents:
            each = self.actions.sizes * self.n_agents
            object.__setattr__(self, "actions", dataclasses.replace(self.actions, sizes=each))

    @property
    def n_agents(self) -> int:
        """N."""
        return len(self.agent_names)

    @property
    def eval_metrics(self) -> tuple[str, ...]:
        """Metrics of every evaluation."""
        return ("return", *self.metric_names, "length")


@record
class TimeStep:
    """Output of an environment's `reset` or `step`; one environment, no batch axis.

    Attributes:
      obs: f32[N, O], zero-padded to the widest agent.
      state: f32[S], for training only.
      avail_actions: bool[N, A], True = allowed; at least one True per agent, dead agents included.
      reward: f32[N], each agent's own raw reward of the last action; 0 after `reset`.
      terminated: bool[], the last action ended the episode.
      truncated: bool[], the last action reached the time limit and did not terminate.
      metrics: name -> f32[]; the value at an episode's last step counts for the episode.
      alive: bool[N], agents that still act; None: all of them, always.
      neighbours: bool[N, N], row i True for the current neighbours of agent i; None: as in the
        spec.
    """

    obs: Array
    state: Array
    avail_actions: Array
    reward: Array
    terminated: Array
    truncated: Array
    metrics: dict[str, Array]
    alive: Array | None = None
    neighbours: Array | None = None


@record
class Observed:
    """Inputs of acting; leading axes `[B]` or `[T, B]`.

    Attributes:
      obs: f32[..., N, *O].
      prev_actions: the last joint action, i32[..., N] or f32[..., N, D]; see `no_action`.
      reset: bool[...], the first entry of an episode.
      avail_actions: bool[..., N, A].
      mean_action: f32[..., N, D], the previous mean action of each agent's neighbours; None for
        algorithms that do not need it.
    """

    obs: Array
    prev_actions: Array
    reset: Array
    avail_actions: Array
    mean_action: Array | None = None


@record
class SequenceStart:
    """Start of sequences that continue an episode.

    Attributes:
      carry: {"act", "learn"}, before the first step, leading axis B.
      prev_actions: [B, N, ...].
      mean_action: f32[B, N, D] or None.
    """

    carry: Any
    prev_actions: Array
    mean_action: Array | None = None


@record
class Trajectory:
    """A batch of sequences. Entry t+1 is the successor of t unless `reset[t+1]`.

    Attributes:
      obs: f32[T+1, B, N, O].
      state: f32[T+1, B, S].
      avail_actions: bool[T+1, B, N, A].
      reset: bool[T+1, B], entry t is the first of an episode.
      actions: i32[T, B, N], or f32[T, B, N, D].
      reward: raw; f32[T, B] of the team, or f32[T, B, N] of each agent, as the algorithm needs.
      terminated: bool[T, B], the action at t ended the episode.
      valid: bool[T, B], the transition happened and is learnt from, and its successor is stored or
        not needed.
      behaviour: name -> [T, B, ...], outputs of acting that learning needs; `{}` for Q-learning.
      mean_action: f32[T, B, N, D], mean action at t of each agent's neighbours alive at t; None for
        algorithms that do not need it.
      start: None if all sequences start with an episode.
    """

    obs: Array
    state: Array
    avail_actions: Array
    reset: Array
    actions: Array
    reward: Array
    terminated: Array
    valid: Array
    behaviour: dict[str, Any] = dataclasses.field(default_factory=dict)
    mean_action: Array | None = None
    start: SequenceStart | None = None


@record
class Batch:
    """Sampled sequences: `trajectory` with B sequences, `weight` f32[B], `index` i32[B]."""

    trajectory: Trajectory
    weight: Array
    index: Array


@record
class Schedule:
    """Linear schedule from `start` to `end` over `steps`, then constant; scalars f32[]."""

    start: Array
    end: Array
    steps: Array


@record
class Exponential:
    """Exponential schedule from `start` to `end`, both positive, over `steps`, then constant;
    scalars f32[].
    """

    start: Array
    end: Array
    steps: Array


@record
class Power:
    """Power schedule `start * (1 + t / scale) ** -exponent`; scalars f32[]."""

    start: Array
    scale: Array
    exponent: Array


@record
class HParams:
    """Hyperparameters that may differ between members: traced scalars f32[].

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
      algo: coefficients of the algorithm, name -> f32[] or a schedule.
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
    """Progress of a run; the same for all members, so never batched. All i32[] but `env_steps`.

    Attributes:
      update_index: updates (one rollout and K gradient steps each) before this one.
      gradient_step: gradient steps before this one.
      env_steps: f32[], env steps collected before this update (f32 because i32 overflows at 2.1e9).
      n_added: sequences added to the replay before this update, warm-up included.
    """

    update_index: Array
    gradient_step: Array
    env_steps: Array
    n_added: Array
