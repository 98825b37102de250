"""Configuration, command, versions and hardware of a run: `config.yaml` and `manifest.json`."""

import datetime
import hashlib
import json
import os
import pathlib
import platform
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any

import yaml

import qmix_jax
from qmix_jax import components, config
from qmix_jax.machine import devices as machine_devices
from qmix_jax.runs import storage
from qmix_jax.types import Device

LAYOUT = 2
"""Version of run directories: their files, and what these contain."""

_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "chex", "jaxmarl", "hydra-core", "numpy"
)  # fmt: skip


class _Dumper(yaml.SafeDumper):
    """Also quotes text that OmegaConf reads as a number and YAML 1.1 does not, such as `1e-5`."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[\d_]+\.?[\d_]*[eE][-+]?\d+$"),
    list("-+0123456789"),
)


def manifest(
    config_mapping: Mapping[str, Any],
    command: Sequence[str] | str,
    devices: Sequence[Device],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns all that is needed to repeat a run, without host or user name.

    Args:
      config_mapping: the resolved configuration, from `config.dump`.
      command: the command that started the run.
      devices: the devices used.
      extra: further fields, for example compile seconds, parameter counts and the plan.
    Returns:
      A mapping for `write_json`. In `versions`, None marks a package that is not installed; `git`
      is None if the package is not in a repository.
    """
    return {
        "layout": LAYOUT,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": storage.plain(command),
        "versions": versions(),
        "git": _git(pathlib.Path(__file__)),
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "cpu_count": machine_devices.cores(),
        **config_fields(config_mapping),
        **storage.plain(extra),
    }


def config_fields(config_mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the manifest's fields `config` and `config_hash`."""
    values = storage.plain(config_mapping)
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return {"config": values, "config_hash": digest[:12]}


def versions() -> dict[str, str | None]:
    """Returns versions of Python, this package and its main dependencies; None if not installed."""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "qmix_jax": qmix_jax.__version__,
    }


def describe() -> str:
    """Returns the version of this package and, in a checkout, its commit."""
    git = _git(pathlib.Path(__file__))
    if git is None:
        return qmix_jax.__version__
    changed = ", with uncommitted changes" if git["dirty"] else ""
    return f"{qmix_jax.__version__} (commit {git['commit'][:10]}{changed})"


def write_json(path: str | os.PathLike[str], mapping: Mapping[str, Any]) -> None:
    """Writes indented JSON atomically; NaN and infinity become null."""
    text = json.dumps(storage.plain(mapping), indent=2, ensure_ascii=False, allow_nan=False)
    with storage.atomic(path) as file:
        file.write(f"{text}\n".encode())


def write_config(path: str | os.PathLike[str], mapping: Mapping[str, Any]) -> None:
    """Writes YAML atomically; `yaml.safe_load` and OmegaConf read back equal values."""
    text = yaml.dump(storage.plain(mapping), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    with storage.atomic(path) as file:
        file.write(text.encode())


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a YAML mapping. Raises: ConfigError if it is missing, not YAML or not a mapping."""
    try:
        mapping = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise config.ConfigError(
            f"config: cannot read {str(path)!r} ({error.strerror}); give a run directory"
        ) from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise config.ConfigError(f"config: {str(path)!r} is not YAML: {reason}; fix it") from error
    if not isinstance(mapping, dict):
        raise config.ConfigError(
            f"config: {str(path)!r} holds {type(mapping).__name__}, not a mapping of keys; fix it"
        )
    return mapping


def read_run_config(
    directory: pathlib.Path, find: Callable = components.find
) -> config.ExperimentConfig:
    """Reads the configuration of a run; `find` as for `config.load`.

    Raises: ConfigError if the directory has none, or an older version wrote it.
    """
    read_manifest(directory)
    return config.load(read_config(directory / "config.yaml"), find)


def read_manifest(directory: pathlib.Path) -> dict[str, Any]:
    """Reads the manifest of a run; empty if the directory has none.

    Raises: ConfigError if an older version wrote it, or it is not JSON.
    """
    path = directory / "manifest.json"
    try:
        if not path.is_file():
            return {}
        fields = json.loads(path.read_text(encoding="utf-8"))
        layout = fields.get("layout", 1)
    except (OSError, ValueError, AttributeError) as error:
        raise config.ConfigError(
            f"run directory: {str(path)!r} is damaged or not the manifest of a run; give another "
            "directory, or restore the file"
        ) from error
    if layout != LAYOUT:
        raise config.ConfigError(
            f"run directory: {str(path)!r} has layout {layout}, but this version reads layout "
            f"{LAYOUT}; use the version of qmix_jax that wrote it, or train again in another "
            "directory"
        )
    return fields


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(file: pathlib.Path) -> dict[str, Any] | None:
    """Commit of the repository that tracks `file`, and whether tracked files differ from it."""
    try:
        _run_git(file, "ls-files", "--error-unmatch", file.name)
        commit = _run_git(file, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.removesuffix("-dirty"), "dirty": commit.endswith("-dirty")}


def _run_git(file: pathlib.Path, *arguments: str) -> str:
    command = ["git", "-C", str(file.parent), *arguments]
    process = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    return process.stdout.strip()
