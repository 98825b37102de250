"""Composes YAML files and overrides with Hydra; errors are one line."""

import contextlib
import pathlib
import shlex
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import hydra
import omegaconf
import yaml
from hydra import errors, version
from hydra.core import (
    config_loader,
    config_search_path,
    global_hydra,
    hydra_config,
    utils,
)
from hydra.core.override_parser import overrides_parser, types
from hydra.types import RunMode

from qmix_jax import config

PRIMARY = "config"
"""Name of the root YAML file."""
HYDRA_VERSION_BASE = "1.3"

_INTERNAL_GROUPS = ("hydra", "experiment_algo", "experiment_trainer")

_NO_HEADER = "the first line of an experiment file must be `# @package _global_`"

_ERRORS = (
    errors.HydraException,
    omegaconf.errors.OmegaConfBaseException,
    yaml.YAMLError,
    ValueError,  # raised by Hydra for `group=null`
)

_LOCK = threading.RLock()
"""Guards Hydra's global state."""


def directory() -> pathlib.Path:
    """Returns the folder of the YAML files: in an installed package, or beside it in a checkout.

    Raises: ConfigError if there is none, that is, if the installation is broken.
    """
    package = pathlib.Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / f"{PRIMARY}.yaml").is_file():
            return folder
    raise config.ConfigError(f"configs: no YAML files beside {package}; install qmix-jax again")


def choices() -> dict[str, tuple[str, ...]]:
    """Returns the choices of every config group that users choose from."""
    groups = sorted(path for path in directory().iterdir() if path.is_dir())
    return {
        group.name: tuple(sorted(file.stem for file in group.glob("*.yaml")))
        for group in groups
        if group.name not in _INTERNAL_GROUPS
    }


class Sources(NamedTuple):
    """Folders and root file of the YAML files: Hydra's flags of the same names.

    Attributes:
      config_dir: a folder that is searched after the package's.
      config_path: a folder that is searched before the package's.
      config_name: the root YAML file.
    """

    config_dir: str | None = None
    config_path: str | None = None
    config_name: str = PRIMARY

    def folders(self) -> tuple[str, str | None]:
        """Returns the folder that is searched first, and the other one, if any.

        Raises: ConfigError for a folder that does not exist, or two.
        """
        if self.config_dir and self.config_path:
            raise config.ConfigError(
                "command line: --config-dir and --config-path exclude each other; give one"
            )
        user_folder = self.config_path or self.config_dir
        if user_folder is None:
            return str(directory()), None
        folder = pathlib.Path(user_folder).resolve()
        if not folder.is_dir():
            flag = "--config-path" if self.config_path else "--config-dir"
            raise config.ConfigError(
                f"command line: {flag} {user_folder!r} is not a folder; give an existing one"
            )
        if self.config_path:
            return str(folder), str(directory())
        return str(directory()), str(folder)


class Composer:
    """Composes configurations with Hydra's node.

    All methods raise ConfigError for an unknown key or choice, a syntax error and an interpolation
    without target.
    """

    def __init__(self, loader: config_loader.ConfigLoader, config_name: str = PRIMARY) -> None:
        self._loader = loader
        self._config_name = config_name

    def parse(self, overrides: Sequence[str]) -> list[types.Override]:
        """Parses overrides in Hydra's grammar."""
        with self._explained(overrides):
            parser = overrides_parser.OverridesParser.create(self._loader)
            return parser.parse_overrides(list(overrides))

    def root(self, overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> omegaconf.DictConfig:
        """Composes a single run, or the root of a multirun, which ignores swept keys."""
        with self._explained(overrides):
            return self._loader.load_configuration(
                config_name=self._config_name,
                overrides=list(overrides),
                run_mode=mode,
                validate_sweep_overrides=mode == RunMode.RUN,
            )

    def job(
        self, root: omegaconf.DictConfig, overrides: Sequence[str], number: int
    ) -> omegaconf.DictConfig:
        """Composes a job of a multirun as Hydra's launcher does."""
        with self._explained(overrides):
            composed = self._loader.load_sweep_config(root, list(overrides))
        with omegaconf.open_dict(composed):
            composed.hydra.job.id = str(number)
            composed.hydra.job.num = number
        return composed

    @contextlib.contextmanager
    def _explained(self, overrides: Sequence[str]) -> Iterator[None]:
        try:
            yield
        except _ERRORS as error:
            raise config.ConfigError(f"config: {self._explain(error, overrides)}") from error

    def _explain(self, error: Exception, overrides: Sequence[str]) -> str:
        if isinstance(error, errors.MissingConfigException) and error.options is not None:
            group, _, choice = str(error.missing_cfg_file).rpartition("/")
            options = sorted(error.options)
            return f"unknown choice {group}={choice}; {config.suggest(choice, options)}"
        if isinstance(error, errors.OverrideParseException):
            return _explain_syntax(error)
        key = getattr(error.__cause__, "full_key", None)
        if not key:
            message = _one_line(error)
            if "@experiment" in message:
                return f"{message.partition(':')[0]}: {_NO_HEADER}"
            return message
        # OmegaConf names the first part that does not exist: `env_args` of `env_args.map_name`.
        names = (text.lstrip("+~").partition("=")[0] for text in overrides)
        key = next((name for name in names if name.startswith(f"{key}.")), key)
        return self._explain_key(error, key, overrides)

    def _explain_key(self, error: Exception, key: str, overrides: Sequence[str]) -> str:
        """Describes an unknown key, with the keys that the chosen groups have there."""
        parent, slash, _ = key.rpartition("/")
        if slash:
            subgroups = [f"{parent}/{name}" for name in self._loader.list_groups(parent)]
            return f"unknown group {key!r}; {config.suggest(key, subgroups)}"
        groups = [group for group in self._loader.list_groups("") if group not in _INTERNAL_GROUPS]
        chosen = [text for text in overrides if text.partition("=")[0] in groups or "/" in text]
        composed = self.root(chosen, RunMode.MULTIRUN)
        if not key.startswith("hydra."):
            composed = _task(composed)
        section = key.rpartition(".")[0]
        if section and omegaconf.OmegaConf.select(composed, section) == {}:
            return f"unknown key {key!r}; {section!r} is empty; add to it with +{key}=..."
        group, _, choice = section.partition(".")
        if choice in choices().get(group, ()):
            return f"unknown key {key!r}; {section!r} is off; enable it with {group}={choice}"
        keys = _keys(omegaconf.OmegaConf.to_container(composed))
        if key in keys:  # a value of the wrong type
            return _one_line(error)
        if section in keys and not any(path.startswith(f"{section}.") for path in keys):
            return f"unknown key {key!r}; {section!r} is a single value; set {section}=..."
        while section and section not in keys:
            section = section.rpartition(".")[0]
        beside = {path for path in keys if path.rpartition(".")[0] == section}
        return config.unknown_key(key, sorted(beside if section else {*beside, *groups}), keys)


@contextlib.contextmanager
def composer(sources: Sources) -> Iterator[Composer]:
    """Opens a `Composer`, in any thread, also inside a program that uses Hydra itself.

    Hydra has global state: it is restored at the end, and one thread composes at a time.
    """
    first, second = sources.folders()
    with (
        _LOCK,
        _restored_hydra(),
        hydra.initialize_config_dir(first, "qmix_jax", version_base=HYDRA_VERSION_BASE),
    ):
        loader: Any = global_hydra.GlobalHydra.instance().config_loader()
        if second is not None:  # the same place in the search path as Hydra's --config-dir
            path = loader.get_search_path()
            before = config_search_path.SearchPathQuery(provider="schema")
            path.prepend("command-line", f"file://{second}", before)
            loader = type(loader)(path)
        yield Composer(loader, sources.config_name)


@contextlib.contextmanager
def _restored_hydra() -> Iterator[None]:
    """Clears Hydra's global state, and restores it at the end."""
    global_state = global_hydra.GlobalHydra.instance()
    runtime, base = utils.JobRuntime.instance(), version.VersionBase.instance()
    running, name, version_base = global_state.hydra, runtime.get("name"), base.getbase()
    global_state.clear()
    try:
        yield
    finally:
        global_hydra.GlobalHydra.set_instance(global_state)
        global_state.hydra = running
        runtime.set("name", name)
        base.version_base = version_base


def compose(
    *overrides: str, config_dir: str | None = None, config_name: str = PRIMARY
) -> dict[str, Any]:
    """Composes the YAML files and overrides as the command line does.

    Args:
      overrides: Hydra overrides, such as `"experiment=two_step"`, `"seeds=4"`.
      config_dir: a folder of YAML files to search besides the package's.
      config_name: name of the root YAML file.
    Returns:
      A nested mapping of plain values for `qmix_jax.load_config`.
    Raises:
      ConfigError: unknown key or choice, syntax error, interpolation without target; one line.
    """
    with composer(Sources(config_dir, config_name=config_name)) as opened:
        return task(opened.root(overrides))


def load(
    *overrides: str, config_dir: str | None = None, config_name: str = PRIMARY
) -> config.ExperimentConfig:
    """Composes the configuration of `qmix-jax train` with the same overrides.

        qmix_jax.train(qmix_jax.compose_config("experiment=smax_2s3z", "algo=vdn", "seeds=4"))

    It also works in threads and inside a function of `@hydra.main`.

    Args:
      overrides: `"group=choice"` and `"key=value"`, as on the command line.
      config_dir: a folder of YAML files to search besides the package's.
      config_name: name of the root YAML file, in the package's folder or in `config_dir`.
    Raises:
      ConfigError: as `load_config`, and for an unknown choice; one line.
    """
    return config.load(compose(*overrides, config_dir=config_dir, config_name=config_name))


def task(composed: omegaconf.DictConfig) -> dict[str, Any]:
    """Returns the composed configuration without Hydra's node, as a resolved mapping.

    Raises: ConfigError as `resolve`.
    """
    current = hydra_config.HydraConfig.instance()
    before = current.cfg
    current.set_config(composed)  # for ${hydra:...}
    try:
        return resolve(_task(composed))
    finally:
        current.cfg = before


def _task(composed: omegaconf.DictConfig) -> omegaconf.DictConfig:
    keys = [str(key) for key in composed if key != "hydra"]
    return omegaconf.OmegaConf.masked_copy(composed, keys)


def resolve(composed: omegaconf.DictConfig) -> dict[str, Any]:
    """Returns a plain mapping with every interpolation resolved.

    Raises: ConfigError for an interpolation without target, a missing mandatory value, and an
      experiment file that does not begin with `# @package _global_`.
    """
    if "experiment" in composed:
        keys = ", ".join(map(str, composed.experiment))
        raise config.ConfigError(
            f"config: unknown section 'experiment' (with {keys}). {_NO_HEADER}"
        )
    try:
        mapping = omegaconf.OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except omegaconf.errors.OmegaConfBaseException as error:
        raise config.ConfigError(f"config: {_one_line(error)}") from error
    assert isinstance(mapping, dict)
    return {str(key): value for key, value in mapping.items()}


def sweep_overrides(root: omegaconf.DictConfig) -> list[str]:
    """Returns the overrides of a multirun: `hydra.sweeper.params`, then the command line's."""
    params = root.hydra.sweeper.get("params") or {}
    return [*(f"{key}={value}" for key, value in params.items()), *root.hydra.overrides.task]


def command(hydra_node: Any, overrides: Sequence[str]) -> str:
    """Returns the command that trains a job alone.

    Args:
      hydra_node: the node `hydra` of the composed configuration.
      overrides: the job's.
    """
    folders = {source.provider: source.path for source in hydra_node.runtime.config_sources}
    flags = []
    if folders["main"] != str(directory()):
        flags += ["--config-path", folders["main"]]
    elif "command-line" in folders:
        flags += ["--config-dir", folders["command-line"]]
    if hydra_node.job.config_name != PRIMARY:
        flags += ["--config-name", hydra_node.job.config_name]
    return shlex.join(["qmix-jax", "train", *flags, *overrides])


def _keys(node: Any, prefix: str = "") -> list[str]:
    """Returns the dotted paths of all keys below a node, sections included."""
    if not isinstance(node, dict):
        return []
    return [
        path
        for key, value in node.items()
        for path in (f"{prefix}{key}", *_keys(value, f"{prefix}{key}."))
    ]


def _explain_syntax(error: errors.OverrideParseException) -> str:
    """Describes an override that is not Hydra's grammar; `qmix` is probably `algo=qmix`."""
    text = error.override
    if "=" not in text:
        meant = [f"{group}={text}" for group, options in choices().items() if text in options]
        hint = f"did you mean {' or '.join(meant)}?" if meant else "give a value, such as seeds=4"
        return f"{text!r} is not key=value; {hint}"
    reason = _one_line(error).removeprefix(f"Error parsing override {text!r} ")
    reason = reason.partition(" See https:")[0]
    return f"cannot parse {text!r} ({reason}); close brackets, and quote special characters"


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or str(error.__cause__)).split())
