"""Known conflicts, each with the condition under which it applies."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from packaging import version

from qmix_jax.doctor import packages
from qmix_jax.doctor.checks import FAIL, OK, WARN, Diagnostic
from qmix_jax.machine import devices

_SECTION = "Known conflicts"


class Installation(NamedTuple):
    """Facts about this process that conflicts depend on.

    Attributes:
      versions: as from `packages.versions`.
      environ: environment variables.
      settings: `jax.config`'s values by name.
      platform: of the default devices.
      cores: number of cores that this process may use.
    """

    versions: Mapping[str, str]
    environ: Mapping[str, str]
    settings: Mapping[str, Any]
    platform: str
    cores: int


class Conflict(NamedTuple):
    """A known conflict.

    Attributes:
      name: of the check.
      status: of an installation with the conflict.
      detect: returns the message if an installation has the conflict, else None.
      fix: what to do.
    """

    name: str
    status: str
    detect: Callable[[Installation], str | None]
    fix: str


def check(installation: Installation | None = None) -> Iterator[Diagnostic]:
    """Yields the conflicts that apply, and one line for all others.

    Args:
      installation: by default this process's, which starts the backend.
    """
    here = installation or Installation(
        packages.versions(), os.environ, jax.config.values, jax.default_backend(), devices.cores()
    )
    absent = []
    for conflict in CONFLICTS:
        message = conflict.detect(here)
        if message is None:
            absent.append(conflict.name)
        else:
            yield Diagnostic(_SECTION, conflict.name, conflict.status, message, conflict.fix)
    yield Diagnostic(_SECTION, "all others", OK, f"do not apply here: {', '.join(absent)}")


def _gymnax(installation: Installation) -> str | None:
    jax_version = installation.versions.get("jax", "0")
    if version.Version(jax_version).release < (0, 12):
        return None
    return f"jax {jax_version} lacks an API that gymnax, used by JaxMARL, needs"


def _qr(installation: Installation) -> str | None:
    jaxlib = installation.versions.get("jaxlib", "")
    if not jaxlib.startswith("0.10.") or installation.platform != "cpu" or installation.cores > 2:
        return None
    return (
        f"jaxlib {jaxlib} can hang on two cores when it samples several orthogonal matrices at "
        "once; this package is not affected, its networks are initialised uniformly"
    )


def _plugin(installation: Installation) -> str | None:
    jaxlib = installation.versions.get("jaxlib")
    plugins = [
        f"{name} {version}"
        for name, version in installation.versions.items()
        if re.fullmatch(r"jax-cuda\d+-(plugin|pjrt)", name) and version != jaxlib
    ]
    return f"{', '.join(plugins)} with jaxlib {jaxlib}: JAX may refuse the GPU" if plugins else None


def _setting(name: str, status: str, key: str, harmless: Any, effect: str) -> Conflict:
    """Makes a conflict with a JAX setting that has another value, from any source."""

    def detect(installation: Installation) -> str | None:
        value = installation.settings.get(f"jax_{key}", harmless)
        return None if value == harmless else f"jax_{key}={value}: {effect}"

    return Conflict(name, status, detect, f"unset JAX_{key.upper()}")


def _variable(name: str, status: str, variable: str, effect: str) -> Conflict:
    """Makes a conflict with an environment variable."""

    def detect(installation: Installation) -> str | None:
        value = installation.environ.get(variable)
        return f"{variable}={value}: {effect}" if value else None

    return Conflict(name, status, detect, "" if status == OK else f"unset {variable}")


def _flag(name: str, pattern: str, effect: str) -> Conflict:
    """Makes a conflict with a flag in XLA_FLAGS."""

    def detect(installation: Installation) -> str | None:
        match = re.search(pattern, installation.environ.get("XLA_FLAGS", ""))
        return f"XLA_FLAGS has {match[0]}: {effect}" if match else None

    return Conflict(name, WARN, detect, "remove it from XLA_FLAGS")


_OTHER_NUMBERS = "a seed gives other random numbers than with the default"

CONFLICTS = (
    Conflict("jax and gymnax", FAIL, _gymnax, "pip install 'jax>=0.10.2,<0.12'"),
    Conflict("batched QR", OK, _qr, ""),
    Conflict("CUDA plugin", WARN, _plugin, "pip install -U 'qmix-jax[cuda13]' (or cuda12)"),
    _setting("64-bit numbers", FAIL, "enable_x64", False,
             "the programs use 32 bits and do not compile"),
    _setting("debug_nans", WARN, "debug_nans", False,
             "slow, and a NaN ends the run instead of freezing a member"),
    _setting("disable_jit", FAIL, "disable_jit", False,
             "nothing is compiled, runs take hundreds of times as long"),
    _setting("matrix precision", WARN, "default_matmul_precision", None,
             "changes metrics if precision=default; choose with precision="),
    _setting("random generator", WARN, "default_prng_impl", "threefry2x32", _OTHER_NUMBERS),
    _setting("random sharding", WARN, "threefry_partitionable", True, _OTHER_NUMBERS),
    _variable("platform", OK, "JAX_PLATFORMS", "JAX uses no other devices"),
    _flag("fast math", r"--xla_(cpu|gpu)_enable_fast_(min_max|math)=true",
          "changes metrics, may hide NaN"),
    _flag("single thread", r"--xla_cpu_multi_thread_eigen=false", "each device uses one core"),
    _variable("core affinity", WARN, "PJRT_NPROC", "sets the number of XLA's threads"),
)  # fmt: skip
"""The most harmful first."""
