"""Cooperative JaxMARL environments with discrete actions, one module per suite.

Other registered environments are refused with the reason.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from qmix_jax import config
from qmix_jax.envs import base
from qmix_jax.envs.jaxmarl import (
    adapter,
    coin_game,
    hanabi,
    jaxnav,
    mpe,
    overcooked,
    smax,
    switch_riddle,
)

_SUITES = (smax, mpe, switch_riddle, overcooked, hanabi, coin_game, jaxnav)
_SUITE_OF = {env_id: suite for suite in _SUITES for env_id in suite.KWARGS}
SUPPORTED = tuple(_SUITE_OF)

_COMPETITIVE = "its agents compete, and value factorisation needs one team reward"
_DILEMMA = "it is a social dilemma, and value factorisation needs one team reward"
_CONTINUOUS = "its actions are continuous, and Q-learning needs a finite set"
_ROBOTARIUM = (
    "not supported yet: it needs the jaxrobotarium package, which JaxMARL does not install"
)
REFUSED = {
    "SMAX": "it is self-play, both teams learn; use HeuristicEnemySMAX",
    "LearnedPolicyEnemySMAX": "it needs a trained enemy policy; use HeuristicEnemySMAX",
    **{
        f"MPE_simple_{name}_v3": _COMPETITIVE
        for name in ("tag", "world_comm", "crypto", "push", "adversary")
    },
    **{f"MPE_simple_facmac{name}_v1": _CONTINUOUS for name in ("", "_3a", "_6a", "_9a")},
    **dict.fromkeys(
        ("ant_4x2", "halfcheetah_6x1", "hopper_3x1", "humanoid_9|8", "walker2d_2x3"), _CONTINUOUS
    ),
    **dict.fromkeys(("storm", "storm_2p", "storm_np"), _DILEMMA),
    **{
        f"JaxRobotarium_{name}": _ROBOTARIUM
        for name in (
            "navigation", "discovery", "material_transport", "warehouse", "arctic_transport",
            "foraging", "rware", "predator_prey",
        )
    },
}  # fmt: skip
"""Registered id -> why it is not supported."""


def _pairs(value: object) -> object:
    return tuple(value.items()) if isinstance(value, Mapping) else value


_AsMapping = PlainSerializer(dict, return_type=dict[str, Any])
Team = Annotated[
    tuple[tuple[smax.UnitType, config.PositiveInt], ...], BeforeValidator(_pairs), _AsMapping
]
"""A mapping in YAML, `{stalker: 2, zealot: 3}`; validated into a hashable tuple of pairs."""
Kwargs = Annotated[
    tuple[tuple[str, bool | int | float | str], ...], BeforeValidator(_pairs), _AsMapping
]


class Config(config.Model):
    """Options of a JaxMARL environment."""

    id: str = "HeuristicEnemySMAX"
    """A name registered with JaxMARL."""
    scenario: str | None = None
    """SMAX only: a registered scenario; null if `allies` and `enemies` compose one."""
    allies: Team | None = None
    """SMAX only: number of units by type, in agent order, for example {stalker: 2, zealot: 3}."""
    enemies: Team | None = None
    """SMAX only: number of enemy units by type."""
    normalise_state: bool = True
    """SMAX only: scale JaxMARL's raw world state to [0, 1]."""
    kwargs: Kwargs = ()
    """JaxMARL keyword arguments (numbers, booleans, names), for example {max_steps: 50}."""


def make(cfg: Config) -> base.Env:
    """Makes the environment; imports JaxMARL, which starts the JAX backend.

    Returns:
      An `Env` without auto-reset; the suites' modules state reward, truncation, state and metrics.
    Raises:
      ConfigError: unknown or refused id, unknown scenario, option of another suite, invalid kwargs.
    """
    _check_id(cfg.id)
    module = _SUITE_OF[cfg.id]
    kwargs = _checked_kwargs(cfg, module.KWARGS[cfg.id])
    if module is smax:
        name, scenario = _scenario(cfg)
        env, suite = smax.build(cfg.id, {**kwargs, "scenario": scenario}, cfg.normalise_state)
        return adapter.adapt(f"{cfg.id}/{name}", env, suite)
    for field in ("scenario", "allies", "enemies"):
        if getattr(cfg, field) is not None:
            raise config.ConfigError(
                f"env jaxmarl: {field}={getattr(cfg, field)!r} applies to {smax.ID} only, "
                f"not to id={cfg.id!r}; set {field} to null"
            )
    env, suite = module.build(cfg.id, kwargs)
    return adapter.adapt(cfg.id, env, suite)


def _check_id(env_id: str) -> None:
    if env_id in REFUSED:
        raise config.ConfigError(
            f"env jaxmarl: id={env_id!r} is refused: {REFUSED[env_id]}; "
            f"supported: {', '.join(SUPPORTED)}"
        )
    if env_id not in SUPPORTED:
        raise config.ConfigError(
            f"env jaxmarl: id={env_id!r} is unknown; {config.suggest(env_id, SUPPORTED)}"
        )


def _checked_kwargs(cfg: Config, model: type[config.Model]) -> dict[str, Any]:
    try:
        return model.model_validate(dict(cfg.kwargs)).model_dump(exclude_unset=True)
    except ValidationError as error:
        problem = error.errors()[0]
    key = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        raise config.ConfigError(
            f"env jaxmarl: kwargs.{key} is not an argument of {cfg.id}; "
            f"{config.suggest(key, tuple(model.model_fields))}"
        )
    reason = problem["msg"][0].lower() + problem["msg"][1:]
    raise config.ConfigError(
        f"env jaxmarl: kwargs.{key}={problem['input']!r} of {cfg.id}: {reason}"
    )


def _scenario(cfg: Config) -> tuple[str, Any]:
    """Name and JaxMARL record of the configured SMAX scenario."""
    composed = [team for team in (cfg.allies, cfg.enemies) if team is not None]
    if cfg.scenario is not None and composed:
        raise config.ConfigError(
            f"env jaxmarl: scenario={cfg.scenario!r} and allies or enemies are both set; "
            "set scenario to null to compose one"
        )
    if cfg.scenario is not None:
        return cfg.scenario, smax.registered_scenario(cfg.scenario)
    if not cfg.allies or not cfg.enemies:
        raise config.ConfigError(
            f"env jaxmarl: {cfg.id} needs a scenario, or units in both allies={cfg.allies!r} and "
            f"enemies={cfg.enemies!r}; scenarios: {', '.join(smax.scenarios())}"
        )
    teams = ["+".join(f"{count}{unit}" for unit, count in t) for t in (cfg.allies, cfg.enemies)]
    return "_vs_".join(teams), smax.composed_scenario(cfg.allies, cfg.enemies)


__all__ = ["REFUSED", "SUPPORTED", "Config", "make"]
