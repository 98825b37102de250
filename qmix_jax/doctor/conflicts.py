"""Known conflicts: a table of facts, each with the condition under which it matters."""

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
    cores: that this process may use.
    """

    versions: Mapping[str, str]
    environ: Mapping[str, str]
    settings: Mapping[str, Any]
    platform: str
    cores: int

    def older(self, package: str, *version: int) -> bool:
        """It is installed, in a version before this one."""
        there = re.findall(r"\d+", self.versions.get(package, ""))[:3]
        return bool(there) and tuple(map(int, there)) < version


class Conflict(NamedTuple):
    """Attributes:
    name: what it is about.
    status: where it matters.
    found: what to say there; None where it does not matter.
    fix: what to do.
    """

    name: str
    status: str
    found: Callable[[Installation], str | None]
    fix: str


def check(around: Installation | None = None) -> Iterator[Diagnostic]:
    """Facts that matter here, and one line on the others. Starts the backend unless told."""
    around = around or here()
    found = [(fact, fact.found(around)) for fact in FACTS]
    matter = [(fact, text) for fact, text in found if text is not None]
    for fact, text in matter:
        yield Diagnostic(
            _SECTION, fact.name, fact.status, text, "" if fact.status == OK else fact.fix
        )
    names = ", ".join(fact.name for fact, text in found if text is None)
    yield Diagnostic(_SECTION, "all others", OK, f"do not apply here: {names}")


def here() -> Installation:
    """Of this process."""
    return Installation(
        packages.versions(), os.environ, jax.config.values, jax.default_backend(), devices.cores()
    )


def _gymnax(around: Installation) -> str | None:
    if "jax" not in around.versions or around.older("jax", 0, 12):
        return None
    return f"jax {around.versions['jax']} lacks what gymnax, which JaxMARL imports, still uses"


def _qr(around: Installation) -> str | None:
    affected = not around.older("jaxlib", 0, 10) and around.older("jaxlib", 0, 11)
    if not affected or around.platform != "cpu" or around.cores > 2:
        return None
    return (
        f"jaxlib {around.versions['jaxlib']} can hang on two cores where several orthogonal "
        "matrices are drawn at once; networks here start from uniform ones, so they do not"
    )


def _plugin(around: Installation) -> str | None:
    jaxlib = around.versions.get("jaxlib")
    other = [
        f"{name} {version}"
        for name, version in around.versions.items()
        if re.fullmatch(r"jax-cuda\d+-(plugin|pjrt)", name) and version != jaxlib
    ]
    return f"{', '.join(other)} with jaxlib {jaxlib}: JAX may refuse the GPU" if other else None


def _set(name: str, harmless: Any, effect: str) -> Callable[[Installation], str | None]:
    """One of JAX's settings, by its environment variable or in Python, has another value."""

    def found(around: Installation) -> str | None:
        value = around.settings.get(f"jax_{name}", harmless)
        return None if value == harmless else f"jax_{name}={value}: {effect}"

    return found


def _variable(name: str, effect: str) -> Callable[[Installation], str | None]:
    """An environment variable is set."""

    def found(around: Installation) -> str | None:
        value = around.environ.get(name)
        return f"{name}={value}: {effect}" if value else None

    return found


def _flag(pattern: str, effect: str) -> Callable[[Installation], str | None]:
    """XLA_FLAGS holds a flag."""

    def found(around: Installation) -> str | None:
        match = re.search(pattern, around.environ.get("XLA_FLAGS", ""))
        return f"XLA_FLAGS has {match[0]}: {effect}" if match else None

    return found


_OTHER_NUMBERS = "a run draws other numbers than the same seed does without it"

FACTS = (
    Conflict("jax and gymnax", FAIL, _gymnax, "pip install 'jax>=0.10.2,<0.12'"),
    Conflict("batched QR", OK, _qr, ""),
    Conflict("CUDA plugin", WARN, _plugin, "pip install -U 'qmix-jax[cuda13]' (or cuda12)"),
    Conflict(
        "64-bit numbers", FAIL,
        _set("enable_x64", False, "programs here are of 32 bits, and do not compile with it"),
        "unset JAX_ENABLE_X64",
    ),
    Conflict(
        "debug_nans", WARN,
        _set("debug_nans", False, "slow, and a NaN ends the run where a member would be frozen"),
        "unset JAX_DEBUG_NANS",
    ),
    Conflict(
        "disable_jit", FAIL,
        _set("disable_jit", False, "nothing is compiled, a run takes hundreds of times as long"),
        "unset JAX_DISABLE_JIT",
    ),
    Conflict(
        "matrix precision", WARN,
        _set("default_matmul_precision", None, "numbers change where precision=default"),
        "unset JAX_DEFAULT_MATMUL_PRECISION, and choose with precision=",
    ),
    Conflict(
        "random generator", WARN, _set("default_prng_impl", "threefry2x32", _OTHER_NUMBERS),
        "unset JAX_DEFAULT_PRNG_IMPL",
    ),
    Conflict(
        "random sharding", WARN, _set("threefry_partitionable", True, _OTHER_NUMBERS),
        "unset JAX_THREEFRY_PARTITIONABLE",
    ),
    Conflict(
        "platform", OK, _variable("JAX_PLATFORMS", "JAX looks for no other devices"), ""
    ),
    Conflict(
        "fast math", WARN,
        _flag(r"--xla_(cpu|gpu)_enable_fast_(min_max|math)=true", "numbers change, NaN may hide"),
        "take it out of XLA_FLAGS",
    ),
    Conflict(
        "single thread", WARN,
        _flag(r"--xla_cpu_multi_thread_eigen=false", "each device uses one core"),
        "take it out of XLA_FLAGS",
    ),
    Conflict(
        "core affinity", WARN, _variable("PJRT_NPROC", "XLA starts so many threads"),
        "unset it",
    ),
)  # fmt: skip
"""In the order of how much they hurt."""
