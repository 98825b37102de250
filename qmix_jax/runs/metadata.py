"""What a run was: its configuration, command, versions and hardware, in files for people."""

import datetime
import hashlib
import json
import os
import pathlib
import platform
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import qmix_jax
from qmix_jax import components, config
from qmix_jax.machine import devices as host
from qmix_jax.runs import storage
from qmix_jax.types import Device

LAYOUT = 2
"""Of run directories: what files there are and what is in them."""

_PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "chex", "jaxmarl", "hydra-core", "numpy"
)  # fmt: skip
_PLAIN_KEY = re.compile(
    r"(?!(true|false|yes|no|on|off|y|n|null)$)[A-Za-z]\w*", re.IGNORECASE | re.ASCII
)


def manifest(
    config_mapping: Mapping[str, Any],
    command: Sequence[str] | str,
    devices: Sequence[Device],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything needed to repeat a run; no host name, no user name.

    Args:
      config_mapping: the resolved configuration, as from `config.dump`.
      command: what started the run.
      devices: the devices it uses.
      extra: more fields, for example compile seconds, parameter counts and the plan.
    Returns:
      A mapping of plain values for `write_json`. `versions` has None for what is not installed;
      `git` is None where the package does not come from a repository.
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
        "cpu_count": host.cores(),
        **of_config(config_mapping),
        **storage.plain(extra),
    }


def of_config(config_mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a manifest that hold the configuration."""
    values = storage.plain(config_mapping)
    canonical = json.dumps(values, sort_keys=True)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return {"config": values, "config_hash": digest[:12]}


def versions() -> dict[str, str | None]:
    """Of Python, this package and what it stands on; None for what is not installed."""
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "qmix_jax": qmix_jax.__version__,
    }


def describe() -> str:
    """Version of this package and, in a checkout, its commit."""
    git = _git(pathlib.Path(__file__))
    if git is None:
        return qmix_jax.__version__
    changed = ", with uncommitted changes" if git["dirty"] else ""
    return f"{qmix_jax.__version__} (commit {git['commit'][:10]}{changed})"


def write_json(path: str | os.PathLike[str], mapping: Mapping[str, Any]) -> None:
    """Writes indented JSON, all or nothing; NaN and infinity become null."""
    text = json.dumps(storage.plain(mapping), indent=2, ensure_ascii=False, allow_nan=False)
    with storage.atomic(path) as file:
        file.write(f"{text}\n".encode())


def write_config(path: str | os.PathLike[str], mapping: Mapping[str, Any]) -> None:
    """Writes a nested mapping of scalars and lists as YAML, all or nothing."""
    text = "\n".join(_yaml(storage.plain(mapping), 0)) or "{}"
    with storage.atomic(path) as file:
        file.write(f"{text}\n".encode())


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `write_config` wrote, or any YAML mapping.

    Raises:
      ConfigError: no such file, not YAML, or not a mapping.
    """
    import yaml  # comes with hydra-core; nothing else here needs it

    try:
        mapping = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise config.ConfigError(
            f"config: cannot read {str(path)!r} ({error.strerror}); give the config.yaml of a run"
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
    """The configuration of the run in a directory.

    Args:
      find: as for `config.load`.
    Raises:
      ConfigError: there is none, or an older version wrote it.
    """
    read_manifest(directory)
    return config.load(read_config(directory / "config.yaml"), find)


def read_manifest(directory: pathlib.Path) -> dict[str, Any]:
    """The manifest of the run in a directory, empty if there is none.

    Raises:
      ConfigError: it is of an older version, or no JSON.
    """
    path = directory / "manifest.json"
    try:
        if not path.is_file():
            return {}
        found = json.loads(path.read_text(encoding="utf-8"))
        layout = found.get("layout", 1)
    except (OSError, ValueError, AttributeError) as error:
        raise config.ConfigError(
            f"run directory: {str(path)!r} is not the manifest of a run; it was damaged or written "
            "by something else"
        ) from error
    if layout != LAYOUT:
        raise config.ConfigError(
            f"run directory: {str(path)!r} is of layout {layout}, and this version reads layout "
            f"{LAYOUT}; use the version of qmix_jax that wrote it, or train again in another "
            "directory"
        )
    return found


def command(directory: pathlib.Path) -> str | None:
    """What started the run in a directory; None where that is not known."""
    return read_manifest(directory).get("command")


def _yaml(mapping: Mapping[str, Any], depth: int) -> Iterator[str]:
    """Block style for mappings; every other value is JSON, which is YAML too."""
    for key, value in mapping.items():
        name = key if _PLAIN_KEY.fullmatch(key) else json.dumps(key)
        if isinstance(value, dict) and value:
            yield f"{'  ' * depth}{name}:"
            yield from _yaml(value, depth + 1)
        else:
            yield f"{'  ' * depth}{name}: {_yaml_value(value)}"


def _yaml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_yaml_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(k)}: {_yaml_value(v)}' for k, v in value.items())}}}"
    if isinstance(value, float):  # YAML 1.1 reads 1e-05 as text and 1.0e-05 as a number
        return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))
    return json.dumps(value, ensure_ascii=False)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(file: pathlib.Path) -> dict[str, Any] | None:
    """Commit of the repository that tracks `file`, and whether tracked files differ from it."""
    try:
        _run_git(file, "ls-files", "--error-unmatch", file.name)
        found = _run_git(file, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": found.removesuffix("-dirty"), "dirty": found.endswith("-dirty")}


def _run_git(file: pathlib.Path, *arguments: str) -> str:
    command = ["git", "-C", str(file.parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()
