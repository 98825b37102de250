"""Which packages there are, and whether they are what this one asks for."""

import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata

from packaging import requirements

from qmix_jax.doctor.checks import FAIL, OK, WARN, Diagnostic
from qmix_jax.runs import metadata as run_metadata

_SECTION = "Versions"
_DISTRIBUTION = "qmix-jax"
_SHOWN = ("jax", "jaxlib", "flax", "optax", "chex", "jaxmarl", "hydra-core", "numpy")
_ABSENT = "not installed"
_NO_EXTRAS = ("cuda12", "cuda13", "tpu", "dev", "test")
"""Extras that are no features: accelerators are seen among the devices, the others are ours."""


def versions() -> dict[str, str]:
    """Name, in lower case -> version of everything installed."""
    found = ((item.metadata["Name"], item.version) for item in metadata.distributions())
    return {name.lower(): version for name, version in found if name}


def check() -> Iterator[Diagnostic]:
    """This package, Python, the libraries it is built on, and its extras."""
    installed = versions()
    yield Diagnostic(_SECTION, "qmix_jax", OK, run_metadata.describe())
    yield Diagnostic(_SECTION, "python", OK, f"{platform.python_version()} ({sys.executable})")
    try:
        wanted = [requirements.Requirement(line) for line in metadata.requires(_DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        yield Diagnostic(
            _SECTION, "installation", WARN, "the package runs, but is not installed",
            "pip install -e . in its folder, so that versions can be checked",
        )  # fmt: skip
        wanted = []
    plain = {item.name.lower(): item for item in wanted if item.marker is None}
    others = [name for name in plain if name not in _SHOWN]
    for name in _SHOWN:
        yield _one(name, installed, plain.get(name))
    bad = [one for one in (_one(name, installed, plain[name]) for name in others) if one.fix]
    yield from bad
    if others and not bad:
        yield Diagnostic(_SECTION, "others", OK, f"{', '.join(sorted(others))}: as required")
    yield _extras(wanted, installed)


def _one(
    name: str, installed: dict[str, str], wanted: requirements.Requirement | None
) -> Diagnostic:
    found = installed.get(name)
    if found is None:
        return Diagnostic(_SECTION, name, FAIL, _ABSENT, f"pip install '{wanted or name}'")
    if wanted is not None and not wanted.specifier.contains(found, prereleases=True):
        text = f"{found}, but qmix_jax needs {name}{wanted.specifier}"
        return Diagnostic(_SECTION, name, FAIL, text, f"pip install '{name}{wanted.specifier}'")
    return Diagnostic(_SECTION, name, OK, found)


def _extras(wanted: Sequence[requirements.Requirement], installed: dict[str, str]) -> Diagnostic:
    """Which extras there are; wrong versions of what they need are warnings."""
    try:
        names = metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        names = []
    names = sorted(set(names) - set(_NO_EXTRAS))
    checks = {
        name: [
            _one(item.name.lower(), installed, item)
            for item in wanted
            if item.marker is not None and _belongs(item, name)
        ]
        for name in names
    }
    present = [name for name, own in checks.items() if not any(one.fix for one in own)]
    absent = [name for name in names if name not in present]
    text = ", ".join(present) or "none"
    text += f"; not installed: {', '.join(absent)}" if absent else ""
    every = [one for own in checks.values() for one in own]
    for wrong in (one for one in every if one.fix and one.found != _ABSENT):
        return Diagnostic(
            _SECTION, "extras", WARN, f"{text}; {wrong.name} {wrong.found}", wrong.fix
        )
    return Diagnostic(_SECTION, "extras", OK, text)


def _belongs(item: requirements.Requirement, extra: str) -> bool:
    """The extra needs it here, and it is not needed anyway."""
    assert item.marker is not None
    return item.marker.evaluate({"extra": extra}) and not item.marker.evaluate({"extra": ""})
