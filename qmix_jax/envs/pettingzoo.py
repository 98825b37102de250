"""PettingZoo parallel environments: stepped in Python on the host, learnt from by compiled code.

Reward: the sum over agents (or the mean, `reward=mean`). Ends: an episode is over when no agent is
left, or after `max_steps`; it is `truncated` if the limit or the environment's own truncation of an
agent ended it, else `terminated`. An agent that has left shows zeros and has action 0 alone, which
is not passed on. Masks: `action_mask` in a dict observation or in an agent's info. State: the
environment's `state()` where it has a `state_space`, else all observations in a row. Observations
are flattened (discrete ones become one-hot vectors) and padded to the widest agent's; images of
equal shape stay images. Metrics: none.
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

_HOMES = ("pettingzoo.{}", "{}")
_MOVED = {"mpe": "mpe2"}
"""Suite of PettingZoo -> the package it has become."""
_LIMITS = ("max_cycles", "max_steps", "max_iter")
"""What PettingZoo's suites call the time limit."""


def _pairs(value: object) -> object:
    return tuple(value.items()) if isinstance(value, Mapping) else value


Kwargs = Annotated[
    tuple[tuple[str, bool | int | float | str | None], ...],
    BeforeValidator(_pairs),
    PlainSerializer(dict, return_type=dict[str, Any]),
]


class Config(config.Model):
    """Which PettingZoo environment."""

    id: str = "mpe.simple_spread_v3"
    """Module with a function `parallel_env`: in `pettingzoo`, or the dotted path of your own."""
    reward: Literal["sum", "mean"] = "sum"
    """The team reward, over the agents' own."""
    max_steps: config.PositiveInt | None = None
    """Env steps after which an episode is truncated; null = the environment's own limit."""
    kwargs: Kwargs = ()
    """Arguments of `parallel_env`, for example {max_cycles: 50}."""


class _SpaceLayout(NamedTuple):
    """Names of the agents, their gymnasium spaces, and the facts; `wrapped`: the observation is in
    a dict, beside an action mask.
    """

    names: tuple[str, ...]
    obs_spaces: tuple[Any, ...]
    wrapped: tuple[bool, ...]
    action_starts: tuple[int, ...]
    has_state: bool
    spec: EnvSpec


def make(cfg: Config) -> base.HostEnv:
    """Builds the environment; creates one of PettingZoo's to read its spaces, and closes it.

    Raises:
      ConfigError: not installed, no such environment, no parallel one, actions that are not
        discrete, no known time limit.
    """
    env = _open(cfg)
    try:
        layout = _layout(cfg, env)
    finally:
        env.close()
    rules = {"sum": base.sum_over_agents, "mean": base.mean_over_agents}
    return base.HostEnv(layout.spec, lambda: _start(cfg, layout), rules[cfg.reward])


def _open(cfg: Config) -> Any:
    module = _find(cfg.id)
    try:
        env = module.parallel_env(**dict(cfg.kwargs))
    except (TypeError, ValueError, AssertionError) as error:
        raise config.ConfigError(
            f"env pettingzoo: {cfg.id}.parallel_env refuses kwargs={dict(cfg.kwargs)}: {error}; "
            "correct env.options.kwargs"
        ) from error
    missing = [name for name in ("possible_agents", "observation_space", "action_space", "step")
               if not hasattr(env, name)]  # fmt: skip
    if missing or hasattr(env, "agent_iter"):
        what = f"it has no {', '.join(missing)}" if missing else "its agents take turns (AEC)"
        raise config.ConfigError(
            f"env pettingzoo: {cfg.id} is no parallel environment: {what}; wrap it with "
            "pettingzoo.utils.aec_to_parallel in a module of your own"
        )
    return env


def _find(name: str) -> Any:
    """The module with `parallel_env`. Raises: ConfigError."""
    suite, _, rest = name.partition(".")
    candidates = [home.format(name) for home in _HOMES]
    if suite in _MOVED:
        candidates.insert(1, f"{_MOVED[suite]}.{rest}")
    lacking = []
    for path in candidates:
        module = _imported(path, lacking, moved=suite in _MOVED)
        if hasattr(module, "parallel_env"):
            return module
    raise config.ConfigError(
        f"env pettingzoo: env.options.id={name!r}: no parallel_env in {', '.join(candidates)} "
        f"(not found: {', '.join(dict.fromkeys(lacking)) or 'nothing'}); install the extra with "
        "pip install 'qmix-jax[pettingzoo]', or correct the name, such as mpe.simple_spread_v3"
    )


def _imported(path: str, lacking: list[str], moved: bool) -> Any:
    """The module, or None: then what is lacking is noted."""
    try:
        return importlib.import_module(path)
    except ImportError as error:
        # A suite that has moved leaves a package behind that raises when it is imported.
        if not isinstance(error, ModuleNotFoundError) and not moved:
            raise
        lacking.append(error.name or path)
        return None


def _layout(cfg: Config, env: Any) -> _SpaceLayout:
    from gymnasium import spaces

    names = tuple(env.possible_agents)
    action_spaces = [env.action_space(name) for name in names]
    for name, space in zip(names, action_spaces, strict=True):
        if not isinstance(space, spaces.Discrete):
            raise config.ConfigError(
                f"env pettingzoo: actions of {name!r} in {cfg.id} are {space}; allowed: Discrete, "
                "for Q-learning needs a finite set; look for an option such as "
                "env.options.kwargs.continuous_actions=false"
            )
    whole = [env.observation_space(name) for name in names]
    wrapped = tuple(isinstance(s, spaces.Dict) and "observation" in s.spaces for s in whole)
    obs_spaces = tuple(
        space["observation"] if inside else space
        for space, inside in zip(whole, wrapped, strict=True)
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
    starts = tuple(int(space.start) for space in action_spaces)
    return _SpaceLayout(names, obs_spaces, wrapped, starts, has_state, spec)


def _shape(space: Any, others: tuple[Any, ...]) -> tuple[int, ...]:
    from gymnasium import spaces

    alike = {getattr(other, "shape", None) for other in others} == {space.shape}
    if isinstance(space, spaces.Box) and len(space.shape) == 3 and alike:
        return tuple(space.shape)
    return (spaces.flatdim(space),)


def _bounds(obs_spaces: tuple[Any, ...]) -> tuple[float, float] | None:
    """Of all entries; padding and agents that have left show 0."""
    lows = [getattr(space, "low", np.zeros(1)).min() for space in obs_spaces]
    highs = [getattr(space, "high", np.ones(1)).max() for space in obs_spaces]
    low, high = min(0.0, *map(float, lows)), max(0.0, *map(float, highs))
    return (low, high) if math.isfinite(low) and math.isfinite(high) and low < high else None


def _limit(cfg: Config, env: Any) -> int:
    owners: tuple[dict[str, Any], ...] = (dict(cfg.kwargs), vars(getattr(env, "unwrapped", env)))
    known = [owner[name] for owner in owners for name in _LIMITS if owner.get(name)]
    if cfg.max_steps is None and not known:
        raise config.ConfigError(
            f"env pettingzoo: {cfg.id} does not say how long an episode may be; set "
            "env.options.max_steps"
        )
    return cfg.max_steps or int(known[0])


def _start(cfg: Config, layout: _SpaceLayout) -> base.HostEpisodes:
    """One environment; what changes is in `env` and `clock`."""
    env = _open(cfg)
    clock = {"step": 0}

    def reset(seed: int) -> TimeStep:
        clock["step"] = 0
        observations, infos = env.reset(seed=seed)
        return _show(layout, env, {*env.agents}, observations, infos)

    def step(actions: np.ndarray) -> TimeStep:
        clock["step"] += 1
        chosen = {
            name: int(actions[i]) + layout.action_starts[i]
            for i, name in enumerate(layout.names)
            if name in env.agents
        }
        observations, rewards, terminations, truncations, infos = env.step(chosen)
        own = [rewards.get(name, 0.0) if name in chosen else 0.0 for name in layout.names]
        # A truncated agent could have gone on: its last observation is bootstrapped from.
        cut = {name for name in chosen if truncations.get(name) and not terminations.get(name)}
        over, late = not env.agents, clock["step"] >= layout.spec.max_steps
        truncated = bool(cut) if over else late
        return dataclasses.replace(
            _show(layout, env, cut | {*env.agents}, observations, infos),
            reward=_floats(own),
            terminated=_flag(over and not truncated),
            truncated=_flag(truncated),
        )

    return base.HostEpisodes(reset, step, env.close)


def _show(
    layout: _SpaceLayout, env: Any, able: set[str], observations: Any, infos: Any
) -> TimeStep:
    """What the environment shows, without reward and end; `able` agents can act."""
    from gymnasium import spaces

    spec = layout.spec
    obs = np.zeros((spec.n_agents, *spec.obs_shape), np.float32)
    avail = np.zeros((spec.n_agents, spec.actions.width), bool)
    avail[:, 0] = True  # what an agent that has left can do
    for i, name in enumerate(layout.names):
        seen, info = observations.get(name), infos.get(name, {})
        if name in able:
            avail[i, : spec.actions.sizes[i]] = _mask(layout, i, seen, info)
        if seen is not None:
            bare = seen["observation"] if layout.wrapped[i] else seen
            flat = np.asarray(spaces.flatten(layout.obs_spaces[i], bare), np.float32)
            obs[(i, *map(slice, spec.obs_shapes[i]))] = flat.reshape(spec.obs_shapes[i])
    state = env.state() if layout.has_state else _in_a_row(spec, obs)
    shown: dict[str, Any] = {
        "obs": obs,
        "state": np.asarray(state, np.float32).reshape(-1),
        "avail_actions": avail,
    }
    return TimeStep(
        **shown,
        reward=_floats([0.0] * spec.n_agents),
        terminated=_flag(False),
        truncated=_flag(False),
        metrics={},
    )


def _mask(layout: _SpaceLayout, index: int, seen: Any, info: Any) -> Any:
    """bool[n_actions] of an agent that can act. Raises: ConfigError for one that does not fit."""
    found = [part["action_mask"] for part in (seen, info)
             if isinstance(part, Mapping) and "action_mask" in part]  # fmt: skip
    n_actions = layout.spec.actions.sizes[index]
    if not found:
        return np.ones(n_actions, bool)
    mask = np.asarray(found[0], bool)
    if mask.shape != (n_actions,) or not mask.any():
        raise config.ConfigError(
            f"env {layout.spec.name}: action_mask of {layout.names[index]!r} is "
            f"{mask.astype(int).tolist()}; expected {n_actions} entries with at least one action; "
            "give an agent that cannot act a no-op"
        )
    return mask


def _in_a_row(spec: EnvSpec, obs: np.ndarray) -> np.ndarray:
    """All observations, without their padding."""
    own = (obs[(i, *map(slice, shape))] for i, shape in enumerate(spec.obs_shapes))
    return np.concatenate([values.reshape(-1) for values in own])


def _floats(values: list[float]) -> Any:
    return np.array(values, np.float32)


def _flag(value: bool) -> Any:
    return np.bool_(value)
