"""Which configurations can share one compiled program.

Everything under `hparams`, and the seed, are inputs of a program (*traced*): members of one
population may differ in them. Every other key changes a shape, a branch or a loop length
(*static*): configurations that differ there need a program each.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qmix_jax import config

TRACED = ("hparams", "seed", "seeds")
"""Keys, with all below them, in which members of one program may differ (`name`, `sink` too)."""


class Group(NamedTuple):
    """Configurations that share a program.

    Attributes:
      jobs: their positions, in order.
      config: of the first one.
    """

    jobs: tuple[int, ...]
    config: config.ExperimentConfig


def split(configs: Sequence[config.ExperimentConfig]) -> tuple[Group, ...]:
    """Groups in the order of their first configuration."""
    jobs: dict[config.ExperimentConfig, list[int]] = {}
    for i, cfg in enumerate(configs):
        jobs.setdefault(static_part(cfg), []).append(i)
    return tuple(Group(tuple(found), configs[found[0]]) for found in jobs.values())


def static_part(cfg: config.ExperimentConfig) -> config.ExperimentConfig:
    """The configuration with everything traced, its name and its sinks made equal."""
    equal = {"name": "", "seed": 0, "seeds": 1, "hparams": config.HParams(), "sink": config.Sinks()}
    return cfg.model_copy(update=equal)


def separating_keys(groups: Sequence[Group]) -> tuple[str, ...]:
    """Dotted static keys in which the groups differ: why there is more than one."""
    return differing_keys(*(static_part(group.config) for group in groups))


def differing_keys(*configs: config.ExperimentConfig) -> tuple[str, ...]:
    """Dotted keys in which not all of the configurations agree."""
    flat = [_flatten(config.dump(cfg)) for cfg in configs]
    keys = dict.fromkeys(key for values in flat for key in values)
    missing = object()
    return tuple(
        key for key in keys if any(v.get(key, missing) != flat[0].get(key, missing) for v in flat)
    )


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
