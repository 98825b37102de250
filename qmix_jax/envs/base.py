"""The environment contract, batching, and our own auto-reset."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import config
from qmix_jax.core import exploration
from qmix_jax.types import Array, EnvSpec, TimeStep, record

EnvState = Any


class Policy(NamedTuple):
    """A joint policy written by hand, to compare with; unlike an agent it may see the env state.

    Attributes:
      initial: its memory when an episode starts, a tree of arrays; `()` for none.
      act: `(key, env_state, TimeStep, memory) -> (actions i32[N], memory)`, one environment.
    """

    initial: Any
    act: Callable[[Array, EnvState, TimeStep, Any], tuple[Array, Any]]


class Shot(NamedTuple):
    """One moment of an episode, shown to people: NumPy arrays without a batch axis.

    Attributes:
      state: the env state.
      before: the env state one step earlier; None at the start.
      actions: i32[N], the joint action that led from `before` to `state`; None at the start.
      step: env steps so far.
      reward: what that action paid.  returned: the sum of all rewards so far.
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


class Env(NamedTuple):
    """One environment as pure functions; no batch axis, no auto-reset.

    Attributes:
      spec: static facts.
      reset: `(key) -> (env_state, TimeStep)`.
      step: `(key, env_state, actions i32[N]) -> (env_state, TimeStep)`; the time step after the
        last action of an episode holds the true final observation.
      decision_points: small environments name the points at which joint values can be tabulated.
      heuristic: a policy that knows the task; None for most.
      draw: `(axes, Shot) -> None`, draws one moment on empty Matplotlib axes; for `render` only.
      scene: instead of `draw`, for a painter that ships.
      describe: `(Shot) -> str`, tells one moment in a few lines; for `render` only.
      host: makes one that is stepped in Python (see `on_host`); None for all that are compiled.
    """

    spec: EnvSpec
    reset: Callable[[Array], tuple[EnvState, TimeStep]]
    step: Callable[[Array, EnvState, Array], tuple[EnvState, TimeStep]]
    decision_points: "tuple[DecisionPoint, ...]" = ()
    heuristic: Policy | None = None
    draw: Callable[[Any, Shot], None] | None = None
    scene: Scene | None = None
    describe: Callable[[Shot], str] | None = None
    host: "Callable[[], HostEnv] | None" = None


class HostEnv(NamedTuple):
    """One environment that is stepped in Python; its time steps hold numpy arrays.

    Attributes:
      reset: `(seed) -> TimeStep`, a fresh episode that depends on the seed alone.
      step: `(actions i32[N]) -> TimeStep`; not called after an episode's end.
      close: frees what it holds.
    """

    reset: Callable[[int], TimeStep]
    step: Callable[[np.ndarray], TimeStep]
    close: Callable[[], None]


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


def played(shot: Shot) -> str:
    """The joint action and what it paid, for `describe`: `agent_0 1, agent_1 0: reward 7`."""
    if shot.actions is None:
        return "start"
    pairs = zip(shot.names, shot.actions, strict=True)
    joint = ", ".join(f"{name} {action}" for name, action in pairs)
    return f"{joint}: reward {shot.reward:g}"


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
        reward=jnp.zeros((), jnp.float32),
        terminated=jnp.zeros((), bool),
        truncated=jnp.zeros((), bool),
        metrics={name: jnp.zeros((), jnp.float32) for name in metric_names},
    )


def existing_actions(n_actions: tuple[int, ...]) -> np.ndarray:
    """bool[N, A], True for the actions that each agent has; the rest is padding."""
    return np.arange(max(n_actions)) < np.array(n_actions)[:, None]


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


def with_truncation_as_termination(env: Env) -> Env:
    """The same environment whose time limit is a terminal state (no bootstrap through it)."""

    def step(key: Array, env_state: EnvState, actions: Array) -> tuple[EnvState, TimeStep]:
        env_state, timestep = env.step(key, env_state, actions)
        ended = timestep.terminated | timestep.truncated
        return env_state, replace(
            timestep, terminated=ended, truncated=jnp.zeros_like(timestep.truncated)
        )

    host = env.host
    return env._replace(step=step, host=host and (lambda: _terminating(host())))


def uniform_policy() -> Policy:
    """Every agent draws one of its available actions, all alike."""

    def act(key: Array, env_state: EnvState, timestep: TimeStep, memory: tuple[()]) -> Any:
        del env_state
        return exploration.uniform_available(key, timestep.avail_actions), memory

    return Policy((), act)


def played_by(env: Env, policy: Policy) -> Env:
    """The same environment in which the policy acts, whatever actions it is given."""

    def reset(key: Array) -> tuple[EnvState, TimeStep]:
        env_state, timestep = env.reset(key)
        memory = jax.tree.map(jnp.asarray, policy.initial)
        return _Seat(env_state=env_state, timestep=timestep, memory=memory), timestep

    def step(key: Array, env_state: _Seat, actions: Array) -> tuple[EnvState, TimeStep]:
        del actions
        key_act, key_env = jax.random.split(key)
        seat = env_state
        actions, memory = policy.act(key_act, seat.env_state, seat.timestep, seat.memory)
        after, timestep = env.step(key_env, seat.env_state, actions)
        return _Seat(env_state=after, timestep=timestep, memory=memory), timestep

    return env._replace(reset=reset, step=step)


@record
class _Seat:
    """What a policy acts on."""

    env_state: EnvState
    timestep: TimeStep
    memory: Any


def on_host(spec: EnvSpec, host: Callable[[], HostEnv]) -> Env:
    """An environment that is stepped in Python: learning and acting are compiled, it is not.

    Args:
      host: makes one; many are made, and each is used by one thread.
    """

    def refuse(*arguments: Any) -> Any:
        del arguments
        raise config.ConfigError(
            f"env: {spec.name} is stepped in Python and cannot be part of a compiled program; "
            "`train`, `baseline` and `check-env` take it"
        )

    return Env(spec, refuse, refuse, host=host)


def _terminating(host: HostEnv) -> HostEnv:
    """Its time limit is a terminal state."""

    def step(actions: np.ndarray) -> TimeStep:
        timestep = host.step(actions)
        ended = timestep.terminated | timestep.truncated
        return replace(timestep, terminated=ended, truncated=ended & False)

    return host._replace(step=step)


def select(condition: Array, on_true: Any, on_false: Any) -> Any:
    """`where` over two equal trees; `condition` bool[B] or bool[] broadcasts from the left."""

    def choose(a: Array, b: Array) -> Array:
        return jnp.where(
            condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b
        )

    return jax.tree.map(choose, on_true, on_false)
