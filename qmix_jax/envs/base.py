"""The environment contract.

An environment is a module with a `Config` and a `make(cfg)` that returns an `Env`: a spec, and two
pure functions of one environment, without a batch axis:

    reset(key)                    -> (env_state, TimeStep)
    step(key, env_state, actions) -> (env_state, TimeStep)

`EnvSpec` and `TimeStep` in `qmix_jax.types` list all fields with their shapes and dtypes. If all
agents share one reward, `team_env` builds the `Env`; its docstring is a complete example. An
environment that is not written in JAX is a `HostEnv`.

The trainer batches, resets and compiles environments itself and relies on these rules, which
`qmix-jax check-env` tests:

1. Pure: all randomness comes from the key; counters live in `env_state`, any tree of arrays.
2. Static shapes: `reset` and `step` return the same structure, shapes and dtypes. Dtypes are exact
   and strong: `jnp.where(x, 1.0, 0.0)` is weakly typed until `.astype(jnp.float32)`.
3. Every agent has an available action at every step, dead agents (a no-op) and the final step
   included. Actions beyond an agent's number of actions are padding and never available.
4. No auto-reset: the step that ends an episode returns the true final observation.
5. `terminated` or `truncated`, never both. A time limit truncates, so values bootstrap through it;
   it terminates only if the horizon is part of the task, as in a one-step game.
6. Arrays are made inside `make`: an array at module level starts the JAX backend on import, before
   the run has set the number of host devices.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.core import exploration
from qmix_jax.types import Actions, Array, Box, EnvSpec, TimeStep, record

EnvState = Any
TeamReward = Callable[[Array], Array]
"""f32[..., N] -> f32[...], from the agents' rewards to the team's."""


class Env(NamedTuple):
    """One environment as pure functions; the module docstring states the contract.

    Attributes:
      spec: static facts.
      reset: `(key) -> (env_state, TimeStep)`.
      step: `(key, env_state, actions) -> (env_state, TimeStep)`; actions are i32[N], or f32[N, D]
        if `spec.actions` is a `Box`.
      team_reward: the team's reward from the agents'; None if agents compete.
      presentation: for `render`; None if there is nothing to draw.
      game: for the lab and baselines; None for most.
    """

    spec: EnvSpec
    reset: Callable[[Array], tuple[EnvState, TimeStep]]
    step: Callable[[Array, EnvState, Array], tuple[EnvState, TimeStep]]
    team_reward: TeamReward | None
    presentation: "Presentation | None" = None
    game: "Game | None" = None


def team_env(
    spec: EnvSpec,
    reset: Callable[[Array], tuple[EnvState, TimeStep]],
    step: Callable[[Array, EnvState, Array], tuple[EnvState, TimeStep]],
    presentation: "Presentation | None" = None,
    game: "Game | None" = None,
) -> Env:
    """Makes an environment whose agents share one team reward.

        def make(cfg):
            spec = EnvSpec(
                name="coordination",
                agent_names=("a", "b"),
                agent_groups=(0, 0),
                actions=Discrete(2),
                obs_shapes=((1,), (1,)),
                obs_shape=(1,),
                state_size=1,
                max_steps=1,
            )

            def timestep():
                return base.first_timestep(jnp.ones((2, 1)), jnp.ones(1), jnp.ones((2, 2), bool))

            def reset(key):
                return (), timestep()

            def step(key, env_state, actions):
                reward = (actions[0] == actions[1]).astype(jnp.float32)
                end = jnp.ones((), bool)
                return env_state, dataclasses.replace(timestep(), reward=reward, terminated=end)

            return base.team_env(spec, reset, step)

    Args:
      spec, presentation, game: as in `Env`.
      reset, step: as in `Env`, except that `step` returns the team's reward, f32[].
    Returns:
      An `Env` in which every agent's reward is the team's.
    Raises: ValueError at trace time if the reward of `step` is not a scalar.
    """

    def share(result: Any, *shapes: tuple[int, ...]) -> tuple[EnvState, TimeStep]:
        if not isinstance(result, tuple) or len(result) != 2:
            raise ValueError("reset and step must return (env_state, TimeStep)")
        env_state, timestep = result
        if jnp.shape(timestep.reward) not in shapes:
            raise ValueError(
                f"team_env takes one reward for the team, got shape {jnp.shape(timestep.reward)}; "
                "sum it over the agents, or return Env(spec, reset, step, team_reward)"
            )
        reward = jnp.broadcast_to(timestep.reward, (spec.n_agents,))
        return env_state, replace(timestep, reward=reward)

    return Env(
        spec=spec,
        # `first_timestep` returns one zero per agent.
        reset=lambda key: share(reset(key), (), (spec.n_agents,)),
        step=lambda key, env_state, actions: share(step(key, env_state, actions), ()),
        team_reward=first_agent,
        presentation=presentation,
        game=game,
    )


def first_timestep(
    obs: Array, state: Array, avail_actions: Array, metric_names: tuple[str, ...] = ()
) -> TimeStep:
    """Returns the time step of `reset`: reward and metrics are 0, nothing has ended.

    Args:
      obs: f32[N, *O].  state: f32[S].  avail_actions: bool[N, A].
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


def first_agent(reward: Array) -> Array:
    """Returns the team reward if all agents receive the same: f32[..., N] -> f32[...]."""
    return reward[..., 0]


def sum_over_agents(reward: Array) -> Array:
    """Sums the agents' rewards to a team reward: f32[..., N] -> f32[...]; JAX or NumPy."""
    return reward.sum(axis=-1)


def mean_over_agents(reward: Array) -> Array:
    """Averages the agents' rewards to a team reward: f32[..., N] -> f32[...]; JAX or NumPy."""
    return reward.mean(axis=-1)


class HostEpisodes(NamedTuple):
    """One environment stepped in Python; its time steps hold NumPy arrays.

    Attributes:
      reset: `(seed) -> TimeStep`, a fresh episode determined by the seed.
      step: `(actions) -> TimeStep`; not called after an episode has ended.
      close: frees its resources.
    """

    reset: Callable[[int], TimeStep]
    step: Callable[[np.ndarray], TimeStep]
    close: Callable[[], None]


class HostEnv(NamedTuple):
    """An environment stepped in Python, between compiled acting and learning.

    Attributes:
      spec, team_reward, presentation, game: as in `Env`.
      start: makes an environment; called many times, and each result is used by one thread.
    """

    spec: EnvSpec
    start: Callable[[], HostEpisodes]
    team_reward: TeamReward | None
    presentation: "Presentation | None" = None
    game: "Game | None" = None


_AnyEnv = TypeVar("_AnyEnv", bound=Env | HostEnv)


class Frame(NamedTuple):
    """One moment of an episode, for drawing; NumPy arrays without a batch axis.

    Attributes:
      state: the env state.
      previous_state: the env state one step earlier; None at the start.
      actions: the joint action between the two; None at the start.
      step: env steps so far.
      reward: of the last step: the team's, or if agents compete the mean over scored agents.
      episode_return: sum of the rewards so far.
      names: of the agents.
    """

    state: Any
    previous_state: Any
    actions: np.ndarray | None
    step: int
    reward: float
    episode_return: float
    names: tuple[str, ...]


class Scene(NamedTuple):
    """Input of one of the painters in `qmix_jax.render`.

    Attributes:
      painter: `battle`, `particles`, `kitchen`, `cells` or `maze`; its module lists its arrays.
      arrays: `(env_state) -> arrays by name` that change over time; compiled, so pure JAX.
      constants: by name.
    """

    painter: str
    arrays: Callable[[EnvState], dict[str, Array]]
    constants: Mapping[str, Any]


class Presentation(NamedTuple):
    """How `render` draws and describes an environment; training never reads it.

    Attributes:
      draw: `(axes, Frame) -> None`, draws a frame on empty Matplotlib axes.
      scene: input of a built-in painter, instead of `draw`.
      describe: `(Frame) -> str`, a few lines of text.
    """

    draw: Callable[[Any, Frame], None] | None = None
    scene: Scene | None = None
    describe: Callable[[Frame], str] | None = None


class HeuristicPolicy(NamedTuple):
    """A hand-written joint policy for baselines; unlike an agent, it may read the env state.

    Attributes:
      initial: memory at the start of an episode, a tree of arrays; `()` for none.
      act: `(key, env_state, TimeStep, memory) -> (actions, memory)`, for one environment.
    """

    initial: Any
    act: Callable[[Array, EnvState, TimeStep, Any], tuple[Array, Any]]


class DecisionPoint(NamedTuple):
    """A situation in which joint values can be tabulated exactly (matrix games).

    Attributes:
      name: as reported.
      obs: f32[N, O].  state: f32[S].
      optimal: f32[A, ..., A], exact optimal joint values.
      exact: name of a fit -> its limit under uniform exploration. `additive` f32[A, ..., A]: least
        squares over sums of per-agent values (VDN). `independent` f32[N, A]: per-agent values
        (IQL). Here and in `optimal`, entries of padding actions are NaN.
    """

    name: str
    obs: Any
    state: Any
    optimal: Any
    exact: dict[str, Any]


class Game(NamedTuple):
    """Known solutions of an environment; training never reads them.

    Attributes:
      decision_points: where joint values can be tabulated; empty for most.
      heuristic: a hand-written policy; None for most.
      arrays: exact arrays of a finite Markov game, by name; None for most.
    """

    decision_points: tuple[DecisionPoint, ...] = ()
    heuristic: HeuristicPolicy | None = None
    arrays: Mapping[str, np.ndarray] | None = None


def score(env: Env | HostEnv, reward: Any) -> Any:
    """Returns the reward that `eval/return` sums: the team's, or if agents compete the mean over
    scored agents; f32[..., N] -> f32[...], JAX or NumPy.
    """
    if env.team_reward is not None:
        return env.team_reward(reward)
    scored = env.spec.scored_agents or tuple(range(env.spec.n_agents))
    return reward[..., np.array(scored)].mean(axis=-1)


def group_indices(kinds: Sequence[Hashable]) -> tuple[int, ...]:
    """Numbers kinds in order of appearance: `("x", "y", "x")` -> `(0, 1, 0)`."""
    order = list(dict.fromkeys(kinds))
    return tuple(order.index(kind) for kind in kinds)


def pad_with_nan(table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pads a table with NaN at the end of each axis, to f32[*shape]."""
    padding = [(0, padded - size) for size, padded in zip(table.shape, shape, strict=True)]
    return np.pad(table.astype(np.float32), padding, constant_values=np.nan)


def additive_fit(table: np.ndarray) -> np.ndarray:
    """Fits a joint table by sums of per-agent values: least squares, all cells weighted equally.

        fit[a_1, ..., a_N] = sum_i mean(table | a_i) - (N - 1) mean(table)

    Args:
      table: f[n_1, ..., n_N].
    """
    axes = range(table.ndim)
    means = (table.mean(axis=tuple(set(axes) - {i}), keepdims=True) for i in axes)
    return sum(means, np.zeros(table.shape)) - (table.ndim - 1) * table.mean()


def independent_fit(table: np.ndarray) -> tuple[np.ndarray, ...]:
    """Returns per-agent values if the others act uniformly: f[n_i], the table's mean given a_i."""
    axes = range(table.ndim)
    return tuple(table.mean(axis=tuple(set(axes) - {i})) for i in axes)


def with_truncation_as_termination(env: _AnyEnv) -> _AnyEnv:
    """Returns the same environment with truncations reported as terminations."""
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
    """Returns a policy that draws uniformly from each agent's available actions, or box."""

    def act(key: Array, env_state: EnvState, timestep: TimeStep, memory: tuple[()]) -> Any:
        del env_state
        if isinstance(actions, Box):
            drawn = jax.random.uniform(key, actions.shape, minval=actions.low, maxval=actions.high)
            return drawn, memory
        return exploration.uniform_available(key, timestep.avail_actions), memory

    return HeuristicPolicy((), act)


@record
class _ControlledState:
    """State of an environment that a policy controls."""

    env_state: EnvState
    timestep: TimeStep
    memory: Any


def with_policy(env: Env, policy: HeuristicPolicy) -> Env:
    """Returns the same environment, controlled by a policy; `step` ignores its actions."""

    def reset(key: Array) -> tuple[EnvState, TimeStep]:
        env_state, timestep = env.reset(key)
        memory = jax.tree.map(jnp.asarray, policy.initial)
        return _ControlledState(env_state=env_state, timestep=timestep, memory=memory), timestep

    def step(key: Array, env_state: _ControlledState, actions: Array) -> tuple[EnvState, TimeStep]:
        del actions
        key_act, key_env = jax.random.split(key)
        inner = env_state
        actions, memory = policy.act(key_act, inner.env_state, inner.timestep, inner.memory)
        after, timestep = env.step(key_env, inner.env_state, actions)
        return _ControlledState(env_state=after, timestep=timestep, memory=memory), timestep

    return env._replace(reset=reset, step=step)


def describe_actions(frame: Frame) -> str:
    """Describes joint action and reward, for `Presentation.describe`: `agent_0 1, agent_1 0: reward
    7`, or `agent_0 (0.5, -1): reward 7` for continuous actions.
    """
    if frame.actions is None:
        return "start"
    texts = [
        str(action) if action.ndim == 0 else f"({', '.join(f'{x:.3g}' for x in action)})"
        for action in frame.actions
    ]
    joint = ", ".join(map(" ".join, zip(frame.names, texts, strict=True)))
    return f"{joint}: reward {frame.reward:g}"


def select(condition: Array, on_true: Any, on_false: Any) -> Any:
    """`where` over equal trees; `condition` bool[B] or bool[] broadcasts from the left."""

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(jnp.expand_dims(condition, range(condition.ndim, a.ndim)), a, b)

    return jax.tree.map(choose, on_true, on_false)
