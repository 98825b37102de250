"""Known conflicts: a table of facts, each with the condition under which it matters."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from qmix_jax.doctor import packages
from qmix_jax.doctor.checks import FAIL, OK, WARN, Check
from qmix_jax.machine import devices

_SECTION = "Known conflicts"


class Surroundings(NamedTuple):
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


class Fact(NamedTuple):
    """Attributes:
    name: what it is about.
    status: where it matters.
    found: what to say there; None where it does not matter.
    fix: what to do.
    """

    name: str
    status: str
    found: Callable[[Surroundings], str | None]
    fix: str


def check(around: Surroundings | None = None) -> Iterator[Check]:
    """Facts that matter here, and one line on the others. Starts the backend unless told."""
    around = around or here()
    found = [(fact, fact.found(around)) for fact in FACTS]
    matter = [(fact, text) for fact, text in found if text is not None]
    for fact, text in matter:
        yield Check(_SECTION, fact.name, fact.status, text, "" if fact.status == OK else fact.fix)
    names = ", ".join(fact.name for fact, text in found if text is None)
    yield Check(_SECTION, "all others", OK, f"do not apply here: {names}")


def here() -> Surroundings:
    """Of this process."""
    return Surroundings(
        packages.versions(), os.environ, jax.config.values, jax.default_backend(), devices.cores()
    )


def _gymnax(around: Surroundings) -> str | None:
    if "jax" not in around.versions or around.older("jax", 0, 12):
        return None
    return f"jax {around.versions['jax']} lacks what gymnax, which JaxMARL imports, still uses"


def _qr(around: Surroundings) -> str | None:
    affected = not around.older("jaxlib", 0, 10) and around.older("jaxlib", 0, 11)
    if not affected or around.platform != "cpu" or around.cores > 2:
        return None
    return (
        f"jaxlib {around.versions['jaxlib']} can hang on two cores where several orthogonal "
        "matrices are drawn at once; networks here start from uniform ones, so they do not"
    )


def _plugin(around: Surroundings) -> str | None:
    jaxlib = around.versions.get("jaxlib")
    other = [
        f"{name} {version}"
        for name, version in around.versions.items()
        if re.fullmatch(r"jax-cuda\d+-(plugin|pjrt)", name) and version != jaxlib
    ]
    return f"{', '.join(other)} with jaxlib {jaxlib}: JAX may refuse the GPU" if other else None


def _set(name: str, harmless: Any, effect: str) -> Callable[[Surroundings], str | None]:
    """One of JAX's settings, by its environment variable or in Python, has another value."""

    def found(around: Surroundings) -> str | None:
        value = around.settings.get(f"jax_{name}", harmless)
        return None if value == harmless else f"jax_{name}={value}: {effect}"

    return found


def _variable(name: str, effect: str) -> Callable[[Surroundings], str | None]:
    """An environment variable is set."""

    def found(around: Surroundings) -> str | None:
        value = around.environ.get(name)
        return f"{name}={value}: {effect}" if value else None

    return found


def _flag(pattern: str, effect: str) -> Callable[[Surroundings], str | None]:
    """XLA_FLAGS holds a flag."""

    def found(around: Surroundings) -> str | None:
        match = re.search(pattern, around.environ.get("XLA_FLAGS", ""))
        return f"XLA_FLAGS has {match[0]}: {effect}" if match else None

    return found


_OTHER_NUMBERS = "a run draws other numbers than the same seed does without it"

FACTS = (
    Fact("jax and gymnax", FAIL, _gymnax, "pip install 'jax>=0.10.2,<0.12'"),
    Fact("batched QR", OK, _qr, ""),
    Fact("CUDA plugin", WARN, _plugin, "pip install -U 'qmix-jax[cuda13]' (or cuda12), in one go"),
    Fact(
        "64-bit numbers", FAIL,
        _set("enable_x64", False, "programs here are of 32 bits, and do not compile with it"),
        "unset JAX_ENABLE_X64",
    ),
    Fact(
        "debug_nans", WARN,
        _set("debug_nans", False, "slow, and a NaN ends the run where a member would be frozen"),
        "unset JAX_DEBUG_NANS",
    ),
    Fact(
        "disable_jit", FAIL,
        _set("disable_jit", False, "nothing is compiled, a run takes hundreds of times as long"),
        "unset JAX_DISABLE_JIT",
    ),
    Fact(
        "matrix precision", WARN,
        _set("default_matmul_precision", None, "numbers change where precision=default"),
        "unset JAX_DEFAULT_MATMUL_PRECISION, and choose with precision=",
    ),
    Fact(
        "random generator", WARN, _set("default_prng_impl", "threefry2x32", _OTHER_NUMBERS),
        "unset JAX_DEFAULT_PRNG_IMPL",
    ),
    Fact(
        "random sharding", WARN, _set("threefry_partitionable", True, _OTHER_NUMBERS),
        "unset JAX_THREEFRY_PARTITIONABLE",
    ),
    Fact(
        "platform", OK, _variable("JAX_PLATFORMS", "JAX looks for no other devices"), ""
    ),
    Fact(
        "fast math", WARN,
        _flag(r"--xla_(cpu|gpu)_enable_fast_(min_max|math)=true", "numbers change, NaN may hide"),
        "take it out of XLA_FLAGS",
    ),
    Fact(
        "single thread", WARN,
        _flag(r"--xla_cpu_multi_thread_eigen=false", "each device uses one core"),
        "take it out of XLA_FLAGS",
    ),
    Fact(
        "core affinity", WARN, _variable("PJRT_NPROC", "XLA starts so many threads"),
        "unset it",
    ),
)  # fmt: skip
"""In the order of how much they hurt."""
