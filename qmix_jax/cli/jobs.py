"""From overrides and Hydra's options to the checked configuration of every job."""

import argparse
import itertools
from collections.abc import Sequence
from typing import Any

import omegaconf
from hydra.types import RunMode

from qmix_jax import config
from qmix_jax.cli import arguments, composition, search


def configs(options: argparse.Namespace) -> list[config.ExperimentConfig]:
    """Composes and validates every job as Hydra will; nothing starts if one is invalid.

    Args:
      options: as added by `arguments.add_overrides`.
    Raises:
      ConfigError: an option, override or value that is invalid in any job.
    """
    with composition.composer(arguments.sources(options)) as composer:
        root = composer.root(options.overrides, RunMode.MULTIRUN)
        multirun = options.multirun or root.hydra.mode == RunMode.MULTIRUN
        if "hydra/sweeper=optuna" in options.overrides and not multirun:
            raise config.ConfigError("command line: hydra/sweeper=optuna needs -m; add it")
        if multirun:
            jobs = enumerate(_sweep(composer, root))
            composed = [composer.job(root, overrides, number) for number, overrides in jobs]
        else:
            composed = [composer.root(options.overrides)]
        loaded = [config.load(composition.task(job)) for job in composed]
    _check_resume(loaded, root, "sweep" if multirun else "run")
    return loaded


def _sweep(composer: composition.Composer, root: omegaconf.DictConfig) -> list[list[str]]:
    """Returns the overrides of the jobs to check."""
    kind = str(root.hydra.sweeper.get("_target_")).rpartition(".")[2]
    if kind == "OptunaSweeper":
        return search.corners(composer, root)
    if kind == "BasicSweeper":
        return grid(composer, composition.sweep_overrides(root))
    # The values that another sweeper chooses are unknown: check the other overrides.
    overrides = composer.parse(list(root.hydra.overrides.task))
    return [[str(item.input_line) for item in overrides if not item.is_sweep_override()]]


def grid(composer: composition.Composer, overrides: Sequence[str]) -> list[list[str]]:
    """Returns the overrides of each job of a grid: `["seed=1,2"]` -> `[["seed=1"], ["seed=2"]]`.

    Raises: ConfigError for a syntax error, or a key without values.
    """
    values: dict[str, list[str]] = {}
    for override in composer.parse(overrides):
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise config.ConfigError(
                f"command line: {override.input_line!r} is a continuous range; search it with "
                "hydra/sweeper=optuna, or list values"
            )
        if not values[key]:
            raise config.ConfigError(
                f"command line: {override.input_line!r} has no values; give at least one"
            )
    return [list(job) for job in itertools.product(*values.values())]


def _check_resume(
    configs: Sequence[config.ExperimentConfig], root: omegaconf.DictConfig, kind: str
) -> None:
    """Raises: ConfigError if the directory of a run to resume changes with time."""
    hydra_node: Any = omegaconf.OmegaConf.to_container(root.hydra, resolve=False)
    if "${now" in hydra_node[kind]["dir"] and any(cfg.resume for cfg in configs):
        raise config.ConfigError(
            f"resume: resume=auto needs a fixed hydra.{kind}.dir=FOLDER; the default "
            "contains the time"
        )
