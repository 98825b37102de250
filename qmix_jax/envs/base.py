"""The environment contract, batching, and our own auto-reset."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.core import exploration
from qmix_jax.types import Actions, Array, Box, EnvSpec, TimeStep, record

EnvState = Any


class HeuristicPolicy(NamedTuple):
    """A joint policy written by hand, to compare with; unlike an agent it may see the env state.

    Attributes:
      initial: its memory when an episode starts, a tree of arrays; `()` for none.
      act: `(key, env_state, TimeStep, memory) -> (actions i32[N], memory)`, one environment.
    """

    initial: Any
    act: Callable[[Array, EnvState, TimeStep, Any], tuple[Array, Any]]


class Frame(NamedTuple):
    """One moment of an episode, shown to people: NumPy arrays without a batch axis.

    Attributes:
      state: the env state.
      before: the env state one step earlier; None at the start.
      actions: the joint action that led from `before` to `state`; None at the start.
      step: env steps so far.
      reward: what that action paid the team, or where agents compete the mean over those that are
        scored.  returned: the sum of all rewards so far.
      names: of the agents.
    """

    state: Any
    before: Any
    actions: np.ndarray | None
    step: int
    reward: float
    returned: float
    names: tuple[str, ...]


class Scene(NamedTuple):
    """What one of `qmix_jax.render`'s painters needs to draw an environment.

    Attributes:
      painter: `battle`, `particles`, `kitchen`, `cells` or `maze`; its module says what it needs.
      look: `(env_state) -> arrays by name`, what changes; compiled, so pure JAX.
      facts: what does not change.
    """

    painter: str
    look: Callable[[EnvState], dict[str, Array]]
    facts: Mapping[str, Any]


class Presentation(NamedTuple):
    """How an environment is shown to people; training never reads it.

    Attributes:
      draw: `(axes, Frame) -> None`, draws one moment on empty Matplotlib axes.
      scene: instead of `draw`, for a painter that ships.
      describe: `(Frame) -> str`, tells one moment in a few lines.
    """

    draw: Callable[[Any, Frame], None] | None = None
    scene: Scene | None = None
    describe: Callable[[Frame], str] | None = None


class Game(NamedTuple):
    """What is known of an environment besides its dynamics; training never reads it.

    Attributes:
      decision_points: where joint values can be tabulated; empty for most.
      heuristic: a policy that knows the task; None for most.
      arrays: exact arrays of a finite Markov game, by name; None for most.
    """

    decision_points: "tuple[DecisionPoint, ...]" = ()
    heuristic: HeuristicPolicy | None = None
    arrays: Mapping[str, np.ndarray] | None = None


TeamReward = Callable[[Array], Array]
"""f32[..., N] -> f32[...], the rule from the agents' rewards to the team's."""


class Env(NamedTuple):
    """One environment as pure functions; no batch axis, no auto-reset.

    Attributes:
      spec: static facts.
      reset: `(key) -> (env_state, TimeStep)`.
      step: `(key, env_state, actions) -> (env_state, TimeStep)`, actions as `spec.actions` has
        them; the time step after the last action of an episode holds the true final observation.
      team_reward: the rule from the agents' rewards to the team's; None where agents compete.
      presentation: for `render` only; None for nothing to show.
      game: for the lab and baselines; None for most.
    """

    spec: EnvSpec
    reset: Callable[[Array], tuple[EnvState, TimeStep]]
    step: Callable[[Array, EnvState, Array], tuple[EnvState, TimeStep]]
    team_reward: TeamReward | None
    presentation: Presentation | None = None
    game: Game | None = None


class HostEpisodes(NamedTuple):
    """One environment that is stepped in Python; its time steps hold NumPy arrays.

    Attributes:
      reset: `(seed) -> TimeStep`, a fresh episode that depends on the seed alone.
      step: `(actions) -> TimeStep`; not called after an episode's end.
      close: frees what it holds.
    """

    reset: Callable[[int], TimeStep]
    step: Callable[[np.ndarray], TimeStep]
    close: Callable[[], None]


class HostEnv(NamedTuple):
    """An environment that is stepped in Python, between compiled acting and learning.

    Attributes:
      spec, team_reward, presentation, game: as in `Env`.
      start: makes one; many are made, and each is used by one thread.
    """

    spec: EnvSpec
    start: Callable[[], HostEpisodes]
    team_reward: TeamReward | None
    presentation: Presentation | None = None
    game: Game | None = None


def team_env(
    spec: EnvSpec,
    reset: Callable[[Array], tuple[EnvState, TimeStep]],
    step: Callable[[Array, EnvState, Array], tuple[EnvState, TimeStep]],
    presentation: Presentation | None = None,
    game: Game | None = None,
) -> Env:
    """An environment whose agents all receive one team reward.

    Args:
      spec, presentation, game: as in `Env`.
      reset, step: as in `Env`, with a scalar `TimeStep.reward` f32[], the team's.
    Returns:
      An `Env` in which every agent's reward is the team's.
    Raises: ValueError at trace time where `step` returns no single reward.
    """

    def repeated(result: Any, *allowed: tuple[int, ...]) -> tuple[EnvState, TimeStep]:
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError("reset and step return (env_state, TimeStep)")
        env_state, timestep = result
        if jnp.shape(timestep.reward) not in allowed:
            raise ValueError(
                f"team_env takes one reward for the team, got shape {jnp.shape(timestep.reward)}; "
                "sum it over the agents, or return Env(spec, reset, step, team_reward)"
            )
        reward = jnp.broadcast_to(timestep.reward, (spec.n_agents,))
        return env_state, replace(timestep, reward=reward)

    return Env(
        spec=spec,
        # `first_timestep` shows a zero for each agent already.
        reset=lambda key: repeated(reset(key), (), (spec.n_agents,)),
        step=lambda key, env_state, actions: repeated(step(key, env_state, actions), ()),
        team_reward=first_agent,
        presentation=presentation,
        game=game,
    )


def first_agent(reward: Array) -> Array:
    """The team reward where all agents receive the same: f32[..., N] -> f32[...]."""
    return reward[..., 0]


def summed(reward: Array) -> Array:
    """The team reward that adds up the agents': f32[..., N] -> f32[...], JAX or NumPy."""
    return reward.sum(axis=-1)


def averaged(reward: Array) -> Array:
    """The team reward that is the agents' mean: f32[..., N] -> f32[...], JAX or NumPy."""
    return reward.mean(axis=-1)


def score(env: Env | HostEnv, reward: Any) -> Any:
    """What `eval/return` sums up: the team reward, or where agents compete the mean over the scored
    agents; f32[..., N] -> f32[...], of JAX or NumPy arrays.
    """
    if env.team_reward is not None:
        return env.team_reward(reward)
    scored = env.spec.scored_agents or tuple(range(env.spec.n_agents))
    return reward[..., np.array(scored)].mean(axis=-1)


_AnyEnv = TypeVar("_AnyEnv", bound=Env | HostEnv)


class DecisionPoint(NamedTuple):
    """A situation whose whole joint-action table can be written down (matrix games).

    Attributes:
      name: shown to people.
      obs: f32[N, O];  state: f32[S].
      optimal: f32[A, ..., A], exact optimal joint values.
      exact: name of a fit -> what it converges to under uniform exploration. `additive` f32[A, ...,
        A]: least squares over sums of per-agent values (VDN). `independent` f32[N, A]: each agent's
        own values (IQL). Here and in `optimal`, entries of actions that an agent lacks are NaN.
    """

    name: str
    obs: Any
    state: Any
    optimal: Any
    exact: dict[str, Any]


def played(shot: Frame) -> str:
    """The joint action and what it paid, for `describe`: `agent_0 1, agent_1 0: reward 7`, of
    continuous actions `agent_0 (0.5, -1): reward 7`.
    """
    if shot.actions is None:
        return "start"
    pairs = zip(shot.names, shot.actions, strict=True)
    joint = ", ".join(f"{name} {_brief(action)}" for name, action in pairs)
    return f"{joint}: reward {shot.reward:g}"


def _brief(action: np.ndarray) -> str:
    if action.ndim == 0:
        return str(action)
    return f"({', '.join(f'{number:.3g}' for number in action)})"


def first_timestep(
    obs: Array, state: Array, avail_actions: Array, metric_names: tuple[str, ...] = ()
) -> TimeStep:
    """What `reset` returns: no reward yet, nothing over, every metric 0.

    Args:
      obs: f32[N, O].  state: f32[S].  avail_actions: bool[N, A].
      metric_names: keys of `TimeStep.metrics`.
    """
    return TimeStep(
        obs=obs,
        state=state,
        avail_actions=avail_actions,
        reward=jnp.zeros(obs.shape[:1], jnp.float32),
        terminated=jnp.zeros((), bool),
        truncated=jnp.zeros((), bool),
        metrics={name: jnp.zeros((), jnp.float32) for name in metric_names},
    )


def group_indices(kinds: Sequence[Hashable]) -> tuple[int, ...]:
    """Numbers equal kinds alike, in order of appearance: `("x", "y", "x")` -> `(0, 1, 0)`."""
    order = list(dict.fromkeys(kinds))
    return tuple(order.index(kind) for kind in kinds)


def pad_with_nan(table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """f32[*shape]: `table` in the leading corner, NaN elsewhere."""
    padding = [(0, wide - own) for own, wide in zip(table.shape, shape, strict=True)]
    return np.pad(table.astype(np.float32), padding, constant_values=np.nan)


def additive_fit(table: np.ndarray) -> np.ndarray:
    """Least-squares fit of a joint table by a sum of per-agent values, all cells weighing the same.

        fit[a_1, ..., a_N] = sum_i mean(table | a_i) - (N - 1) mean(table)

    Args:
      table: f[n_1, ..., n_N].
    Returns:
      The fit, of the same shape.
    """
    axes = range(table.ndim)
    means = (table.mean(axis=tuple(set(axes) - {i}), keepdims=True) for i in axes)
    return sum(means, np.zeros(table.shape)) - (table.ndim - 1) * table.mean()


def independent_fit(table: np.ndarray) -> tuple[np.ndarray, ...]:
    """Each agent's own values when the others act uniformly: f[n_i], the table's mean given a_i."""
    axes = range(table.ndim)
    return tuple(table.mean(axis=tuple(set(axes) - {i})) for i in axes)


def with_truncation_as_termination(env: _AnyEnv) -> _AnyEnv:
    """The same environment whose time limit is a terminal state (no bootstrap through it)."""
    if isinstance(env, HostEnv):

        def start() -> HostEpisodes:
            episodes = env.start()
            return episodes._replace(step=lambda actions: _terminating(episodes.step(actions)))

        return env._replace(start=start)

    def step(key: Array, env_state: EnvState, actions: Array) -> tuple[EnvState, TimeStep]:
        env_state, timestep = env.step(key, env_state, actions)
        return env_state, _terminating(timestep)

    return env._replace(step=step)


def _terminating(timestep: TimeStep) -> TimeStep:
    ended = timestep.terminated | timestep.truncated
    return replace(timestep, terminated=ended, truncated=ended & False)


def uniform_policy(actions: Actions) -> HeuristicPolicy:
    """Every agent draws uniformly: one of its available actions, or a point of its box."""

    def act(key: Array, env_state: EnvState, timestep: TimeStep, memory: tuple[()]) -> Any:
        del env_state
        if isinstance(actions, Box):
            drawn = jax.random.uniform(key, actions.shape, minval=actions.low, maxval=actions.high)
            return drawn, memory
        return exploration.uniform_available(key, timestep.avail_actions), memory

    return HeuristicPolicy((), act)


def played_by(env: Env, policy: HeuristicPolicy) -> Env:
    """The same environment in which the policy acts, whatever actions it is given."""

    def reset(key: Array) -> tuple[EnvState, TimeStep]:
        env_state, timestep = env.reset(key)
        memory = jax.tree.map(jnp.asarray, policy.initial)
        return _PolicyInput(env_state=env_state, timestep=timestep, memory=memory), timestep

    def step(key: Array, env_state: _PolicyInput, actions: Array) -> tuple[EnvState, TimeStep]:
        del actions
        key_act, key_env = jax.random.split(key)
        seat = env_state
        actions, memory = policy.act(key_act, seat.env_state, seat.timestep, seat.memory)
        after, timestep = env.step(key_env, seat.env_state, actions)
        return _PolicyInput(env_state=after, timestep=timestep, memory=memory), timestep

    return env._replace(reset=reset, step=step)


@record
class _PolicyInput:
    """What a policy acts on."""

    env_state: EnvState
    timestep: TimeStep
    memory: Any


def select(condition: Array, on_true: Any, on_false: Any) -> Any:
    """`where` over two equal trees; `condition` bool[B] or bool[] broadcasts from the left."""

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(
            condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b
        )

    return jax.tree.map(choose, on_true, on_false)
