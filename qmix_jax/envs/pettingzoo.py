"""PettingZoo parallel environments, stepped in Python between compiled acting and learning.

Team reward: the sum over agents (or the mean, `reward=mean`). An episode ends when no agent is left
or after `max_steps`; it is `truncated` if the limit or PettingZoo's truncation of an agent ends it,
else `terminated`. An agent that has left observes zeros; its only available action, 0, is ignored.
Masks: `action_mask` in a dict observation or in an agent's info. State: `state()` if the
environment has a `state_space`, else all observations concatenated. Observations are flattened
(discrete ones become one-hot vectors) and padded to the widest; images of equal shape stay images.
Metrics: none.
"""

import dataclasses
import importlib
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BeforeValidator, PlainSerializer

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.types import Discrete, EnvSpec, TimeStep

_MOVED = {"mpe": "mpe2"}
"""Suite of PettingZoo -> its new package."""
_LIMITS = ("max_cycles", "max_steps", "max_iter")
"""Names of the time limit in PettingZoo's suites."""


def _pairs(value: object) -> object:
    return tuple(value.items()) if isinstance(value, Mapping) else value


Kwargs = Annotated[
    tuple[tuple[str, bool | int | float | str | None], ...],
    BeforeValidator(_pairs),
    PlainSerializer(dict, return_type=dict[str, Any]),
]


class Config(config.Model):
    """Options of a PettingZoo environment."""

    id: str = "mpe.simple_spread_v3"
    """Module with a function `parallel_env`: in `pettingzoo`, or a dotted path."""
    reward: Literal["sum", "mean"] = "sum"
    """The team reward: sum or mean over agents."""
    max_steps: config.PositiveInt | None = None
    """Env steps after which an episode is truncated; null = the environment's limit."""
    kwargs: Kwargs = ()
    """Arguments of `parallel_env`, for example {max_cycles: 50}."""


class _SpaceLayout(NamedTuple):
    """The spec; per agent the gymnasium observation space, whether observations are dicts with an
    action mask, and the first action; whether the environment has a state.
    """

    spec: EnvSpec
    obs_spaces: tuple[Any, ...]
    in_dict: tuple[bool, ...]
    first_actions: tuple[int, ...]
    has_state: bool


def make(cfg: Config) -> base.HostEnv:
    """Makes the environment; opens a PettingZoo environment once to read its spaces.

    Raises:
      ConfigError: not installed, unknown environment, not a parallel environment, actions that are
        not discrete, unknown time limit.
    """
    env = _open(cfg)
    try:
        layout = _layout(cfg, env)
    finally:
        env.close()
    team_reward = {"sum": base.sum_over_agents, "mean": base.mean_over_agents}[cfg.reward]
    return base.HostEnv(layout.spec, lambda: _start(cfg, layout), team_reward)


def _open(cfg: Config) -> Any:
    module = _find(cfg.id)
    try:
        env = module.parallel_env(**dict(cfg.kwargs))
    except (TypeError, ValueError, AssertionError) as error:
        raise config.ConfigError(
            f"env pettingzoo: {cfg.id}.parallel_env rejects kwargs={dict(cfg.kwargs)}: {error}; "
            "correct env.options.kwargs"
        ) from error
    missing = [name for name in ("possible_agents", "observation_space", "action_space", "step")
               if not hasattr(env, name)]  # fmt: skip
    if missing or hasattr(env, "agent_iter"):
        reason = f"it has no {', '.join(missing)}" if missing else "its agents take turns (AEC)"
        raise config.ConfigError(
            f"env pettingzoo: {cfg.id} is not a parallel environment: {reason}; wrap it with "
            "pettingzoo.utils.aec_to_parallel in your own module"
        )
    return env


def _find(name: str) -> Any:
    """Imports the module with `parallel_env`. Raises: ConfigError."""
    suite, _, module_name = name.partition(".")
    new_path = [f"{_MOVED[suite]}.{module_name}"] if suite in _MOVED else []
    paths = [f"pettingzoo.{name}", *new_path, name]
    missing = []
    for path in paths:
        module = _import(path, missing, has_moved=suite in _MOVED)
        if hasattr(module, "parallel_env"):
            return module
    raise config.ConfigError(
        f"env pettingzoo: env.options.id={name!r}: no parallel_env in {', '.join(paths)} "
        f"(not found: {', '.join(dict.fromkeys(missing)) or 'nothing'}); install the extra with "
        "pip install 'qmix-jax[pettingzoo]', or correct the name, such as mpe.simple_spread_v3"
    )


def _import(path: str, missing: list[str], has_moved: bool) -> Any:
    """Imports a module; if it is missing, adds its name to `missing` and returns None."""
    try:
        return importlib.import_module(path)
    except ImportError as error:
        # Importing a suite that has moved raises an ImportError.
        if not isinstance(error, ModuleNotFoundError) and not has_moved:
            raise
        missing.append(error.name or path)
        return None


def _layout(cfg: Config, env: Any) -> _SpaceLayout:
    from gymnasium import spaces

    names = tuple(env.possible_agents)
    action_spaces = [env.action_space(name) for name in names]
    for name, space in zip(names, action_spaces, strict=True):
        if not isinstance(space, spaces.Discrete):
            raise config.ConfigError(
                f"env pettingzoo: actions of {name!r} in {cfg.id} are {space}; allowed: Discrete, "
                "because Q-learning needs a finite set; look for an option such as "
                "env.options.kwargs.continuous_actions=false"
            )
    raw_spaces = [env.observation_space(name) for name in names]
    in_dict = tuple(isinstance(s, spaces.Dict) and "observation" in s.spaces for s in raw_spaces)
    obs_spaces = tuple(
        space["observation"] if inside else space
        for space, inside in zip(raw_spaces, in_dict, strict=True)
    )
    shapes = tuple(_shape(space, obs_spaces) for space in obs_spaces)
    state_space = getattr(env, "state_space", None)
    has_state = isinstance(state_space, spaces.Box)
    n_actions = tuple(int(space.n) for space in action_spaces)
    spec = EnvSpec(
        name=f"pettingzoo/{cfg.id}",
        agent_names=names,
        agent_groups=base.group_indices(list(zip(n_actions, shapes, strict=True))),
        actions=Discrete(n_actions),
        obs_shapes=shapes,
        obs_shape=tuple(max(sizes) for sizes in zip(*shapes, strict=True)),
        state_size=math.prod(state_space.shape) if has_state else sum(map(math.prod, shapes)),
        max_steps=_limit(cfg, env),
        obs_bounds=_bounds(obs_spaces),
    )
    return _SpaceLayout(
        spec=spec,
        obs_spaces=obs_spaces,
        in_dict=in_dict,
        first_actions=tuple(int(space.start) for space in action_spaces),
        has_state=has_state,
    )


def _shape(space: Any, obs_spaces: tuple[Any, ...]) -> tuple[int, ...]:
    from gymnasium import spaces

    equal = {getattr(other, "shape", None) for other in obs_spaces} == {space.shape}
    if isinstance(space, spaces.Box) and len(space.shape) == 3 and equal:
        return tuple(space.shape)
    return (spaces.flatdim(space),)


def _bounds(obs_spaces: tuple[Any, ...]) -> tuple[float, float] | None:
    """Bounds of all entries, including the zeros of padding and of agents that have left."""
    lows = [getattr(space, "low", np.zeros(1)).min() for space in obs_spaces]
    highs = [getattr(space, "high", np.ones(1)).max() for space in obs_spaces]
    low, high = min(0.0, *map(float, lows)), max(0.0, *map(float, highs))
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None


def _limit(cfg: Config, env: Any) -> int:
    sources: tuple[dict[str, Any], ...] = (dict(cfg.kwargs), vars(getattr(env, "unwrapped", env)))
    limits = [source[name] for source in sources for name in _LIMITS if source.get(name)]
    if cfg.max_steps is None and not limits:
        raise config.ConfigError(
            f"env pettingzoo: {cfg.id} states no time limit; set env.options.max_steps"
        )
    return cfg.max_steps or int(limits[0])


def _start(cfg: Config, layout: _SpaceLayout) -> base.HostEpisodes:
    """Starts one environment; `env` and `step_count` hold its state."""
    env, spec = _open(cfg), layout.spec
    step_count = 0

    def reset(seed: int) -> TimeStep:
        nonlocal step_count
        step_count = 0
        observations, infos = env.reset(seed=seed)
        return _timestep(layout, env, {*env.agents}, observations, infos)

    def step(actions: np.ndarray) -> TimeStep:
        nonlocal step_count
        step_count += 1
        joint = {
            name: int(actions[i]) + layout.first_actions[i]
            for i, name in enumerate(spec.agent_names)
            if name in env.agents
        }
        observations, rewards, terminations, truncations, infos = env.step(joint)
        # Values bootstrap from the last observation of a truncated agent, so its mask matters.
        cut = {name for name in joint if truncations.get(name) and not terminations.get(name)}
        ended = not env.agents
        truncated = bool(cut) if ended else step_count >= spec.max_steps
        reward = [rewards.get(name, 0.0) if name in joint else 0.0 for name in spec.agent_names]
        return dataclasses.replace(
            _timestep(layout, env, cut | {*env.agents}, observations, infos),
            reward=np.array(reward, np.float32),
            terminated=np.bool_(ended and not truncated),
            truncated=np.bool_(truncated),
        )

    return base.HostEpisodes(reset, step, env.close)


def _timestep(
    layout: _SpaceLayout, env: Any, active: set[str], observations: Any, infos: Any
) -> TimeStep:
    """The time step without reward or end; `active` agents can act."""
    from gymnasium import spaces

    spec = layout.spec
    obs = np.zeros((spec.n_agents, *spec.obs_shape), np.float32)
    avail = np.zeros((spec.n_agents, spec.actions.width), bool)
    avail[:, 0] = True  # the no-op of an agent that has left
    for i, (name, shape) in enumerate(zip(spec.agent_names, spec.obs_shapes, strict=True)):
        value, info = observations.get(name), infos.get(name, {})
        if name in active:
            avail[i, : spec.actions.sizes[i]] = _mask(spec, i, value, info)
        if value is not None:
            value = value["observation"] if layout.in_dict[i] else value
            flat = np.asarray(spaces.flatten(layout.obs_spaces[i], value), np.float32)
            obs[(i, *map(slice, shape))] = flat.reshape(shape)
    unpadded = (obs[(i, *map(slice, shape))].ravel() for i, shape in enumerate(spec.obs_shapes))
    state = env.state() if layout.has_state else np.concatenate([*unpadded])
    arrays: dict[str, Any] = {  # NumPy arrays instead of JAX arrays
        "obs": obs,
        "state": np.asarray(state, np.float32).reshape(-1),
        "avail_actions": avail,
        "reward": np.zeros(spec.n_agents, np.float32),
        "terminated": np.bool_(False),
        "truncated": np.bool_(False),
    }
    return TimeStep(**arrays, metrics={})


def _mask(spec: EnvSpec, index: int, observation: Any, info: Any) -> Any:
    """bool[n_actions] of an agent that can act. Raises: ConfigError for an invalid mask."""
    n_actions = spec.actions.sizes[index]
    for source in (observation, info):
        if isinstance(source, Mapping) and "action_mask" in source:
            mask = np.asarray(source["action_mask"], bool)
            break
    else:
        return np.ones(n_actions, bool)
    if mask.shape != (n_actions,) or not mask.any():
        raise config.ConfigError(
            f"env {spec.name}: action_mask of {spec.agent_names[index]!r} is "
            f"{mask.astype(int).tolist()}; expected {n_actions} entries with an available action; "
            "give agents that cannot act a no-op"
        )
    return mask
