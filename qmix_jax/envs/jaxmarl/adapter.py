"""Adapts JaxMARL environments to `Env`; a `Suite` has the facts of each suite."""

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
    """Facts that JaxMARL's common interface does not give.

    Attributes:
      max_steps: the true limit, in env steps.
      state: `(observations of JaxMARL, env_state) -> f32[S]`.
      team_reward: as in `Env`.
      outcome: `(env_state, next env_state, actions i32[N]) -> (bool[], metrics)`: whether an
        episode that ends with this step terminates, and its metrics (scalars).
      variant: distinguishes environments of one id by name: a layout, a number of players.
      metric_names: keys of those metrics.
      heuristic: as in `Game`.  scene, describe: as in `Presentation`.
      avail_actions: `(env_state) -> bool[N, A]`; None: all actions of every agent.
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
    """Imports a JaxMARL module without its output.

    On import JaxMARL resets the standard streams to the interpreter's original ones, so these are
    redirected as well.
    """
    streams = {name: getattr(sys, name) for name in ("stdout", "stderr", "__stdout__")}
    sys.stdout = sys.__stdout__ = io.StringIO()
    try:
        return importlib.import_module(module)
    finally:
        for name, stream in streams.items():
            setattr(sys, name, stream)


def construct(env_id: str, kwargs: Mapping[str, Any]) -> Any:
    """Makes JaxMARL's environment. Raises: ConfigError if JaxMARL does not accept the arguments."""
    jaxmarl = quiet_import("jaxmarl")
    try:
        with warnings.catch_warnings():  # about JaxMARL's versions and defaults
            warnings.simplefilter("ignore")
            return jaxmarl.make(env_id, **kwargs)
    except (AssertionError, TypeError, ValueError) as error:
        raise config.ConfigError(
            f"env jaxmarl: {env_id} does not accept kwargs={dict(kwargs)!r}: {error}"
        ) from error


def reset_shapes(env: Any) -> Any:
    """Returns shapes of (observations, env_state), without running the environment."""
    return jax.eval_shape(env.reset, jax.eval_shape(jax.random.key, 0))


def concatenate_obs(agents: list[str]) -> Callable[[Mapping[str, Array], Any], Array]:
    """`Suite.state` if JaxMARL has none: all observations concatenated, unpadded."""
    return lambda obs, env_state: jnp.concatenate([obs[agent] for agent in agents])


def obs_columns(env: Any) -> np.ndarray | None:
    """`Suite.agent_state` for `concatenate_obs`; None if sizes differ between agents."""
    obs, _ = reset_shapes(env)
    sizes = {obs[agent].shape for agent in env.agents}
    if len(sizes) > 1:
        return None
    ((size,),) = sizes
    return np.arange(len(env.agents) * size, dtype=np.int32).reshape(-1, size)


def never_terminates(state: Any, next_state: Any, actions: Array) -> tuple[Array, dict[str, Array]]:
    """`Suite.outcome` if episodes end only at the time limit."""
    del state, next_state, actions
    return jnp.zeros((), bool), {}


def adapt(name: str, env: Any, suite: Suite) -> base.Env:
    """Wraps `step_env`, which never resets, so final time steps are the true ones.

    Executes padding actions, which are never available, as the agent's last action.

    Args:
      name: of the environment.
      env: a JaxMARL environment with discrete actions; observations are vectors, padded to the
        longest, or images `[height, width, channels]` of one shape.
      suite: facts of its suite.
    """
    spec = _spec(f"{name}/{suite.variant}" if suite.variant else name, env, suite)
    n_actions = np.array(spec.actions.sizes, np.int32)

    def to_timestep(obs: Mapping[str, Array], env_state: Any) -> TimeStep:
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
        return _strongly_typed(env_state), to_timestep(obs, env_state)

    def step(key: Array, env_state: Any, actions: Array) -> tuple[base.EnvState, TimeStep]:
        actions = jnp.minimum(actions, n_actions - 1)
        named = {agent: actions[i] for i, agent in enumerate(spec.agent_names)}
        obs, next_state, rewards, dones, _ = env.step_env(key, env_state, named)
        ended = dones["__all__"]
        terminates, metrics = suite.outcome(env_state, next_state, actions)
        timestep = replace(
            to_timestep(obs, next_state),
            reward=_f32(jnp.stack([rewards[agent] for agent in spec.agent_names])),
            terminated=_strongly_typed(ended & terminates),
            truncated=_strongly_typed(ended & ~terminates),
            metrics={name: jnp.where(ended, _f32(metrics[name]), 0.0) for name in metrics},
        )
        return _strongly_typed(next_state), timestep

    return base.Env(
        spec,
        reset,
        step,
        suite.team_reward,
        presentation=base.Presentation(scene=suite.scene, describe=suite.describe),
        game=base.Game(heuristic=suite.heuristic),
    )


def _spec(name: str, env: Any, suite: Suite) -> EnvSpec:
    obs, env_state = reset_shapes(env)
    obs_shapes = tuple(obs[agent].shape for agent in env.agents)
    n_actions = tuple(int(env.action_space(agent).n) for agent in env.agents)
    return EnvSpec(
        name=name,
        agent_names=tuple(env.agents),
        agent_groups=base.group_indices(tuple(zip(obs_shapes, n_actions, strict=True))),
        actions=Discrete(n_actions),
        obs_shapes=obs_shapes,
        obs_shape=max(obs_shapes),
        state_size=jax.eval_shape(suite.state, obs, env_state).shape[0],
        max_steps=suite.max_steps,
        metric_names=suite.metric_names,
        agent_state=suite.agent_state,
        obs_bounds=suite.obs_bounds,
        state_bounds=suite.state_bounds,
    )


def _pad(obs: Array, shape: tuple[int, ...]) -> Array:
    padding = [(0, padded - size) for size, padded in zip(obs.shape, shape, strict=True)]
    return jnp.pad(_f32(obs), padding)


def _f32(value: Array) -> Array:
    return jax.lax.convert_element_type(value, jnp.float32)


def _strongly_typed(tree: Any) -> Any:
    """Removes the weak types of Python numbers in JaxMARL, so that a scan can carry the tree."""
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), tree)
