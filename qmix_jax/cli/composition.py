"""YAML and overrides to a plain mapping: Hydra's compose API, with errors of one line."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import hydra
import omegaconf
import yaml
from hydra import errors
from hydra._internal.core_plugins import basic_sweeper
from hydra.core import global_hydra
from hydra.core.override_parser import overrides_parser

from qmix_jax import config

PRIMARY = "config"
"""Name of the root YAML file."""
HYDRA_VERSION_BASE = "1.3"

_INTERNAL_GROUPS = ("hydra", "experiment_algo", "experiment_trainer")

_ERRORS = (
    errors.HydraException,
    omegaconf.errors.OmegaConfBaseException,
    yaml.YAMLError,
    ValueError,  # Hydra's own for `group=null`
)


def directory() -> pathlib.Path:
    """Folder of the YAML files: inside an installed package, beside the package in a checkout.

    Raises: ConfigError where neither holds them, that is, where the installation is broken.
    """
    package = pathlib.Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / f"{PRIMARY}.yaml").is_file():
            return folder
    raise config.ConfigError(f"configs: no YAML files beside {package}; install qmix-jax again")


def choices() -> dict[str, tuple[str, ...]]:
    """Names of the config groups that people choose from -> names of their choices."""
    groups = sorted(path for path in directory().iterdir() if path.is_dir())
    return {
        group.name: tuple(sorted(file.stem for file in group.glob("*.yaml")))
        for group in groups
        if group.name not in _INTERNAL_GROUPS
    }


def compose(
    *overrides: str, config_dir: str | None = None, config_name: str = PRIMARY
) -> dict[str, Any]:
    """Composes the YAML files and overrides as the command line does.

    Args:
      overrides: Hydra overrides, for example `"experiment=two_step"`, `"seeds=4"`.
      config_dir: a folder of one's own to search besides the package's.
      config_name: name of the root YAML file.
    Returns:
      A nested mapping of plain values for `qmix_jax.load_config`.
    Raises:
      ConfigError: unknown key or choice, syntax error, unresolvable interpolation; one line.
    """
    with _hydra(config_dir, overrides) as extra:
        try:
            composed = hydra.compose(config_name, [*overrides, *extra])
        except _ERRORS as error:
            raise config.ConfigError(_explain(error, overrides, config_name)) from error
    return resolve(composed)


def load(*overrides: str, config_dir: str | None = None) -> config.ExperimentConfig:
    """The configuration that `qmix-jax train` makes of the same overrides, by name of the groups'
    choices: `qmix_jax.train(qmix_jax.compose_config("experiment=smax_2s3z", "algo=vdn"))`.

    Args:
      overrides: `"group=choice"` and `"key=value"`, as on the command line.
      config_dir: a folder of one's own to search besides the package's.
    Raises:
      ConfigError: as `load_config`, and for an unknown choice; one line.
    """
    return config.load(compose(*overrides, config_dir=config_dir))


def resolve(composed: omegaconf.DictConfig) -> dict[str, Any]:
    """A plain mapping with every interpolation resolved.

    Raises: ConfigError for an interpolation without target and for a mandatory value left out.
    """
    try:
        mapping = omegaconf.OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise config.ConfigError(f"config: {_one_line(error)}") from error
    assert isinstance(mapping, dict)
    return {str(key): value for key, value in mapping.items()}


def sweep(overrides: list[str], config_dir: str | None = None) -> list[list[str]]:
    """The overrides of each job of a grid: `["seed=1,2"]` -> `[["seed=1"], ["seed=2"]]`.

    Overrides of Hydra's own settings are left out. Raises: ConfigError for a syntax error.
    """
    with loader(config_dir, overrides) as found:
        try:
            parsed = overrides_parser.OverridesParser.create(found).parse_overrides(overrides)
            own = [override for override in parsed if not override.is_hydra_override()]
            _refuse_empty(own)
            (jobs,) = basic_sweeper.BasicSweeper.split_arguments(own, max_batch_size=None)
        except _ERRORS as error:
            raise config.ConfigError(f"config: {_one_line(error)}") from error
    return jobs


def _refuse_empty(overrides: list[Any]) -> None:
    """A sweep over nothing would run nothing and say nothing."""
    for override in overrides:
        if override.is_discrete_sweep() and not any(True for _ in override.sweep_string_iterator()):
            raise config.ConfigError(
                f"command line: {override.input_line!r} has no values; give at least one"
            )


@contextlib.contextmanager
def loader(config_dir: str | None, overrides: list[str]) -> Iterator[Any]:
    """Hydra's config loader, which knows the choices of every group."""
    with _hydra(config_dir, overrides):
        yield global_hydra.GlobalHydra.instance().config_loader()


@contextlib.contextmanager
def _hydra(config_dir: str | None, overrides: tuple[str, ...] | list[str]) -> Iterator[list[str]]:
    """Hydra initialised with our folder; yields the override that adds the user's."""
    extra = []
    if config_dir is not None:
        folder = pathlib.Path(config_dir).resolve()
        if not folder.is_dir():
            raise config.ConfigError(
                f"command line: --config-dir {config_dir!r} is no folder; give an existing one"
            )
        if any(override.startswith("hydra.searchpath=") for override in overrides):
            raise config.ConfigError(
                "command line: --config-dir and hydra.searchpath exclude each other; give one"
            )
        extra = [f'hydra.searchpath=["file://{folder}"]']
    with hydra.initialize_config_dir(str(directory()), version_base=HYDRA_VERSION_BASE):
        yield extra


def _explain(error: Exception, overrides: tuple[str, ...], config_name: str) -> str:
    if isinstance(error, errors.MissingConfigException) and error.options is not None:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        options = sorted(error.options)
        return f"config: unknown choice {group}={choice}; {config.suggest(choice, options)}"
    full_key = getattr(error.__cause__, "full_key", None)
    if full_key:
        return f"config: unknown key {full_key!r}; {_suggest_key(full_key, overrides, config_name)}"
    return f"config: {_one_line(error)}"


def _suggest_key(key: str, overrides: tuple[str, ...], config_name: str) -> str:
    """The nearest key of the configuration that the chosen groups make, and those beside it."""
    loader = global_hydra.GlobalHydra.instance().config_loader()
    groups = [group for group in loader.list_groups("") if group not in _INTERNAL_GROUPS]
    chosen = [override for override in overrides if override.partition("=")[0] in groups]
    composed = hydra.compose(config_name, chosen)
    section, _, leaf = key.rpartition(".")
    if section and omegaconf.OmegaConf.select(composed, section) == {}:
        return f"{section!r} is empty; add to it with +{key}=..."
    group, _, choice = section.partition(".")
    if choice in choices().get(group, ()):
        return f"{section!r} is off; choose it: {group}={choice}"
    keys = _keys(omegaconf.OmegaConf.to_container(composed))
    beside = sorted(path for path in keys if path.rpartition(".")[0] == section)
    if not beside:
        return f"{section!r} is a value; set that"
    same_leaf = [path for path in keys if path.rpartition(".")[2] == leaf]
    if same_leaf:
        return f"did you mean {same_leaf[0]!r}? allowed: {', '.join(beside)}"
    return config.suggest(key, beside if section else sorted({*beside, *groups}))


def _keys(node: Any, prefix: str = "") -> list[str]:
    """Dotted paths of all keys below a node, sections included."""
    if not isinstance(node, dict):
        return []
    return [
        path
        for key, value in node.items()
        for path in (f"{prefix}{key}", *_keys(value, f"{prefix}{key}."))
    ]


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or str(error.__cause__)).split())
