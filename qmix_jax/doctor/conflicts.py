"""Known conflicts: a table, each with the condition under which it applies."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from qmix_jax.doctor import packages
from qmix_jax.doctor.checks import FAIL, OK, WARN, Diagnostic
from qmix_jax.machine import devices

_SECTION = "Known conflicts"


class Installation(NamedTuple):
    """Attributes:
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

    def has_older(self, package: str, *version: int) -> bool:
        """Whether the package is installed in a version before this one."""
        installed = re.findall(r"\d+", self.versions.get(package, ""))[:3]
        return bool(installed) and tuple(map(int, installed)) < version


class Conflict(NamedTuple):
    """Attributes:
    name: of the check.
    status: where the conflict applies.
    detect: the message where the conflict applies; None elsewhere.
    fix: what to do.
    """

    name: str
    status: str
    detect: Callable[[Installation], str | None]
    fix: str


def check(installation: Installation | None = None) -> Iterator[Diagnostic]:
    """The conflicts that apply, and one line for the others.

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
    if "jax" not in installation.versions or installation.has_older("jax", 0, 12):
        return None
    return f"jax {installation.versions['jax']} lacks an API that gymnax, used by JaxMARL, needs"


def _qr(installation: Installation) -> str | None:
    version_0_10 = not installation.has_older("jaxlib", 0, 10) and installation.has_older(
        "jaxlib", 0, 11
    )
    if not version_0_10 or installation.platform != "cpu" or installation.cores > 2:
        return None
    return (
        f"jaxlib {installation.versions['jaxlib']} can hang on two cores when several orthogonal "
        "matrices are sampled at once; not here, networks start from uniform ones"
    )


def _plugin(installation: Installation) -> str | None:
    jaxlib = installation.versions.get("jaxlib")
    plugins = [
        f"{name} {version}"
        for name, version in installation.versions.items()
        if re.fullmatch(r"jax-cuda\d+-(plugin|pjrt)", name) and version != jaxlib
    ]
    return f"{', '.join(plugins)} with jaxlib {jaxlib}: JAX may refuse the GPU" if plugins else None


def _setting(name: str, harmless: Any, effect: str) -> Callable[[Installation], str | None]:
    """Detects a JAX setting, made by environment variable or in Python, with another value."""

    def detect(installation: Installation) -> str | None:
        value = installation.settings.get(f"jax_{name}", harmless)
        return None if value == harmless else f"jax_{name}={value}: {effect}"

    return detect


def _variable(name: str, effect: str) -> Callable[[Installation], str | None]:
    """Detects an environment variable."""

    def detect(installation: Installation) -> str | None:
        value = installation.environ.get(name)
        return f"{name}={value}: {effect}" if value else None

    return detect


def _flag(pattern: str, effect: str) -> Callable[[Installation], str | None]:
    """Detects a flag in XLA_FLAGS."""

    def detect(installation: Installation) -> str | None:
        match = re.search(pattern, installation.environ.get("XLA_FLAGS", ""))
        return f"XLA_FLAGS has {match[0]}: {effect}" if match else None

    return detect


_OTHER_NUMBERS = "a seed gives other random numbers than by default"

CONFLICTS = (
    Conflict("jax and gymnax", FAIL, _gymnax, "pip install 'jax>=0.10.2,<0.12'"),
    Conflict("batched QR", OK, _qr, ""),
    Conflict("CUDA plugin", WARN, _plugin, "pip install -U 'qmix-jax[cuda13]' (or cuda12)"),
    Conflict(
        "64-bit numbers", FAIL,
        _setting("enable_x64", False, "programs use 32 bits and do not compile with it"),
        "unset JAX_ENABLE_X64",
    ),
    Conflict(
        "debug_nans", WARN,
        _setting("debug_nans", False, "slow, and a NaN ends the run instead of freezing a member"),
        "unset JAX_DEBUG_NANS",
    ),
    Conflict(
        "disable_jit", FAIL,
        _setting("disable_jit", False, "nothing is compiled, runs take hundreds of times as long"),
        "unset JAX_DISABLE_JIT",
    ),
    Conflict(
        "matrix precision", WARN,
        _setting("default_matmul_precision", None, "changes metrics if precision=default"),
        "unset JAX_DEFAULT_MATMUL_PRECISION, and choose with precision=",
    ),
    Conflict(
        "random generator", WARN, _setting("default_prng_impl", "threefry2x32", _OTHER_NUMBERS),
        "unset JAX_DEFAULT_PRNG_IMPL",
    ),
    Conflict(
        "random sharding", WARN, _setting("threefry_partitionable", True, _OTHER_NUMBERS),
        "unset JAX_THREEFRY_PARTITIONABLE",
    ),
    Conflict(
        "platform", OK, _variable("JAX_PLATFORMS", "JAX looks for no other devices"), ""
    ),
    Conflict(
        "fast math", WARN,
        _flag(r"--xla_(cpu|gpu)_enable_fast_(min_max|math)=true", "changes metrics, may hide NaN"),
        "remove it from XLA_FLAGS",
    ),
    Conflict(
        "single thread", WARN,
        _flag(r"--xla_cpu_multi_thread_eigen=false", "each device uses one core"),
        "remove it from XLA_FLAGS",
    ),
    Conflict(
        "core affinity", WARN, _variable("PJRT_NPROC", "number of XLA's threads"), "unset it"
    ),
)  # fmt: skip
"""The most harmful first."""
