"""A JaxMARL environment as an `Env`; what its suite does in its own way is a `Suite`."""

import importlib
import io
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Array, Discrete, EnvSpec, TimeStep


class Suite(NamedTuple):
    """What JaxMARL's common interface does not say.

    Attributes:
      max_steps: the true limit, in env steps.
      state: `(what JaxMARL observes, env_state) -> f32[S]`.
      team_reward: as in `Env`.
      outcome: `(env_state before, env_state after, actions i32[N]) -> (bool[], metrics)`: did the
        task end the episode, and what the metrics are (scalars) if this step is its last.
      variant: tells environments of one id apart, for people: a layout, a number of players.
      metric_names: keys of those metrics.
      heuristic: as in `Game`.  scene, describe: as in `Presentation`.
      avail_actions: `(env_state) -> bool[N, A]`, or None: every action that the agent has.
      agent_state, obs_bounds, state_bounds: as in `EnvSpec`.
    """

    max_steps: int
    state: Callable[[Mapping[str, Array], Any], Array]
    team_reward: base.TeamReward | None
    outcome: Callable[[Any, Any, Array], tuple[Array, dict[str, Array]]]
    variant: str = ""
    metric_names: tuple[str, ...] = ()
    heuristic: base.HeuristicPolicy | None = None
    scene: base.Scene | None = None
    describe: Callable[[base.Frame], str] | None = None
    avail_actions: Callable[[Any], Array] | None = None
    agent_state: np.ndarray | None = None
    obs_bounds: tuple[float, float] | None = None
    state_bounds: tuple[float, float] | None = None


def quiet_import(module: str) -> Any:
    """Imports a JaxMARL module without the lines that JaxMARL prints.

    While it is imported, JaxMARL replaces the standard streams by the interpreter's original ones,
    so a plain redirection of the output would be undone: the originals are exchanged as well.
    """
    streams = {name: getattr(sys, name) for name in ("stdout", "stderr", "__stdout__")}
    sys.stdout = sys.__stdout__ = io.StringIO()
    try:
        return importlib.import_module(module)
    finally:
        for name, stream in streams.items():
            setattr(sys, name, stream)


def construct(env_id: str, kwargs: Mapping[str, Any]) -> Any:
    """JaxMARL's own environment object.

    Raises:
      ConfigError: JaxMARL does not accept the arguments.
    """
    jaxmarl = quiet_import("jaxmarl")
    try:
        with warnings.catch_warnings():  # about versions and defaults of its own
            warnings.simplefilter("ignore")
            return jaxmarl.make(env_id, **kwargs)
    except (AssertionError, TypeError, ValueError) as error:
        raise config.ConfigError(
            f"env jaxmarl: {env_id} does not accept kwargs={dict(kwargs)!r}: {error}"
        ) from error


def obs_shapes(env: Any) -> dict[str, tuple[int, ...]]:
    """True shape of everything that JaxMARL observes, found without running the environment."""
    obs, _ = jax.eval_shape(env.reset, jax.eval_shape(jax.random.key, 0))
    return {name: leaf.shape for name, leaf in obs.items()}


def concatenated(agents: list[str]) -> Callable[[Mapping[str, Array], Any], Array]:
    """A state for suites that have none: the agents' observations in a row, unpadded."""
    return lambda obs, env_state: jnp.concatenate([obs[agent] for agent in agents])


def time_limit(before: Any, after: Any, actions: Array) -> tuple[Array, dict[str, Array]]:
    """The outcome where the task has no end of its own."""
    del before, after, actions
    return jnp.zeros((), bool), {}


def own_columns(env: Any) -> np.ndarray | None:
    """`EnvSpec.agent_state` of a concatenated state; None where sizes differ between agents."""
    shapes = obs_shapes(env)
    sizes = {shapes[agent] for agent in env.agents}
    if len(sizes) > 1:
        return None
    ((size,),) = sizes
    return np.arange(len(env.agents) * size, dtype=np.int32).reshape(-1, size)


def adapt(name: str, env: Any, suite: Suite) -> base.Env:
    """Wraps `step_env`, which never resets, so the time step after the end is the true final one.

    An action that an agent lacks (padding, never available) is played as its last own action.

    Args:
      name: shown to people.
      env: a JaxMARL environment with discrete actions; observations are vectors, padded to the
        longest, or images `[height, width, channels]` of one shape.
      suite: the rest.
    """
    spec = _spec(f"{name}/{suite.variant}" if suite.variant else name, env, suite)
    n_actions = np.array(spec.actions.sizes, np.int32)

    def show(obs: Mapping[str, Array], env_state: Any) -> TimeStep:
        avail = spec.actions.exists
        if suite.avail_actions is not None:
            avail = suite.avail_actions(env_state)
        return base.first_timestep(
            obs=jnp.stack([_pad(obs[agent], spec.obs_shape) for agent in spec.agent_names]),
            state=_f32(suite.state(obs, env_state)),
            avail_actions=jnp.asarray(avail, bool),
            metric_names=suite.metric_names,
        )

    def reset(key: Array) -> tuple[base.EnvState, TimeStep]:
        obs, env_state = env.reset(key)
        return _strong(env_state), show(obs, env_state)

    def step(key: Array, env_state: Any, actions: Array) -> tuple[base.EnvState, TimeStep]:
        actions = jnp.minimum(actions, n_actions - 1)
        named = {agent: actions[i] for i, agent in enumerate(spec.agent_names)}
        obs, after, rewards, dones, _ = env.step_env(key, env_state, named)
        over = dones["__all__"]
        by_task, metrics = suite.outcome(env_state, after, actions)
        timestep = replace(
            show(obs, after),
            reward=_f32(jnp.stack([rewards[agent] for agent in spec.agent_names])),
            terminated=_strong(over & by_task),
            truncated=_strong(over & ~by_task),
            metrics={name: jnp.where(over, _f32(metrics[name]), 0.0) for name in metrics},
        )
        return _strong(after), timestep

    return base.Env(
        spec,
        reset,
        step,
        suite.team_reward,
        presentation=base.Presentation(scene=suite.scene, describe=suite.describe),
        game=base.Game(heuristic=suite.heuristic),
    )


def _spec(name: str, env: Any, suite: Suite) -> EnvSpec:
    obs, env_state = jax.eval_shape(env.reset, jax.eval_shape(jax.random.key, 0))
    own_shapes = tuple(obs[agent].shape for agent in env.agents)
    n_actions = tuple(int(env.action_space(agent).n) for agent in env.agents)
    return EnvSpec(
        name=name,
        agent_names=tuple(env.agents),
        agent_groups=base.group_indices(tuple(zip(own_shapes, n_actions, strict=True))),
        actions=Discrete(n_actions),
        obs_shapes=own_shapes,
        obs_shape=max(own_shapes),
        state_size=jax.eval_shape(suite.state, obs, env_state).shape[0],
        max_steps=suite.max_steps,
        metric_names=suite.metric_names,
        agent_state=suite.agent_state,
        obs_bounds=suite.obs_bounds,
        state_bounds=suite.state_bounds,
    )


def _pad(obs: Array, shape: tuple[int, ...]) -> Array:
    return jnp.pad(_f32(obs), [(0, wide - own) for own, wide in zip(obs.shape, shape, strict=True)])


def _f32(value: Array) -> Array:
    return jax.lax.convert_element_type(value, jnp.float32)


def _strong(tree: Any) -> Any:
    """Arrays with fixed types, so that a state can be carried: JaxMARL mixes in Python numbers."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), tree)
