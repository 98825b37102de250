"""Which configurations can share one compiled program.

Everything under `hparams`, and the seed, are inputs of a program (*traced*): members of one
population may differ in them. Every other key changes a shape, a branch or a loop length
(*static*): configurations that differ there need a program each.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qmix_jax import config

TRACED = ("hparams", "seed", "seeds")
"""Keys, with all below them, in which members of one program may differ (`name`, `logger`, `stop`,
`resume` too).
"""


class ConfigGroup(NamedTuple):
    """Configurations that share a program.

    Attributes:
      jobs: their positions, in order.
      config: of the first one.
    """

    jobs: tuple[int, ...]
    config: config.ExperimentConfig


def split(configs: Sequence[config.ExperimentConfig]) -> tuple[ConfigGroup, ...]:
    """Groups in the order of their first configuration."""
    jobs: dict[config.ExperimentConfig, list[int]] = {}
    for i, cfg in enumerate(configs):
        jobs.setdefault(static_part(cfg), []).append(i)
    return tuple(ConfigGroup(tuple(found), configs[found[0]]) for found in jobs.values())


def static_part(cfg: config.ExperimentConfig) -> config.ExperimentConfig:
    """The configuration with everything traced, its name, loggers and stop rules made equal."""
    equal = {"name": "", "seed": 0, "seeds": 1, "resume": None, "hparams": config.HParamsConfig()}
    equal |= {"logger": config.LoggersConfig(), "stop": config.StopConfig()}
    return cfg.model_copy(update=equal)


def compiled_part(cfg: config.ExperimentConfig) -> config.ExperimentConfig:
    """The static part, with what is done outside the compiled programs made equal too."""
    return static_part(cfg).model_copy(update={"checkpoint": config.CheckpointConfig()})


def separating_keys(groups: Sequence[ConfigGroup]) -> tuple[str, ...]:
    """Dotted static keys in which the groups differ: why there is more than one."""
    return differing_keys(*(static_part(group.config) for group in groups))


def differing_keys(*configs: config.ExperimentConfig) -> tuple[str, ...]:
    """Dotted keys in which not all of the configurations agree."""
    first, *others = map(config.dump, configs)
    found = {key for other in others for key in differences(first, other)}
    keys = dict.fromkeys(key for one in (first, *others) for key in _flatten(one))
    return tuple(key for key in keys if key in found)


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys of nested mappings -> their values in each, where these differ; a key that one
    does not have is None there.
    """
    old, new = _flatten(before), _flatten(now)
    keys = dict.fromkeys([*old, *new])
    return {key: (old.get(key), new.get(key)) for key in keys if _other(key, old, new)}


def _other(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return (key in old) != (key in new) or old[key] != new[key]


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
