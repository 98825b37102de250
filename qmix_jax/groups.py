"""Groups configurations that can share a compiled program.

The seed and everything under `hparams` are inputs of a program (*traced*): members of a population
may differ in them. Every other key changes a shape, a branch or a loop length (*static*):
configurations that differ in it need separate programs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qmix_jax import config

TRACED = ("hparams", "seed", "seeds")
"""Keys, with all below them, that may differ within a group (so may `name`, `logger`, `stop` and
`resume`).
"""


class ConfigGroup(NamedTuple):
    """Configurations that share a program.

    Attributes:
      jobs: their indices, in order.
      config: the first one.
    """

    jobs: tuple[int, ...]
    config: config.ExperimentConfig


def split(configs: Sequence[config.ExperimentConfig]) -> tuple[ConfigGroup, ...]:
    """Returns the groups, in the order of their first configuration."""
    groups: dict[config.ExperimentConfig, list[int]] = {}
    for i, cfg in enumerate(configs):
        groups.setdefault(static_part(cfg), []).append(i)
    return tuple(ConfigGroup(tuple(jobs), configs[jobs[0]]) for jobs in groups.values())


def static_part(cfg: config.ExperimentConfig) -> config.ExperimentConfig:
    """Returns the configuration with defaults for traced keys, name, loggers and stop rules."""
    defaults = {"name": "", "seed": 0, "seeds": 1, "resume": None}
    defaults |= {"hparams": config.HParamsConfig(), "logger": config.LoggersConfig()}
    return cfg.model_copy(update={**defaults, "stop": config.StopConfig()})


def compiled_part(cfg: config.ExperimentConfig) -> config.ExperimentConfig:
    """Returns the static part, also with default checkpoint settings, which no program reads."""
    return static_part(cfg).model_copy(update={"checkpoint": config.CheckpointConfig()})


def separating_keys(groups: Sequence[ConfigGroup]) -> tuple[str, ...]:
    """Returns the dotted static keys in which groups differ."""
    return differing_keys(*(static_part(group.config) for group in groups))


def differing_keys(*configs: config.ExperimentConfig) -> tuple[str, ...]:
    """Returns the dotted keys in which configurations differ."""
    first, *others = map(config.dump, configs)
    differing = {key for other in others for key in differences(first, other)}
    keys = dict.fromkeys(key for values in (first, *others) for key in flatten(values))
    return tuple(key for key in keys if key in differing)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Compares nested mappings: dotted key -> (value before, value after) where these differ; None
    for a missing key.
    """
    old, new = flatten(before), flatten(after)
    missing = object()
    return {
        key: (old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if old.get(key, missing) != new.get(key, missing)
    }


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns dotted key -> value of a nested mapping."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
