"""Checks installed packages against the requirements of this one."""

import platform
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata

from packaging import requirements

from qmix_jax.doctor.checks import FAIL, OK, WARN, Diagnostic
from qmix_jax.runs import metadata as run_metadata

_SECTION = "Versions"
_DISTRIBUTION = "qmix-jax"
_LISTED = ("jax", "jaxlib", "flax", "optax", "chex", "jaxmarl", "hydra-core", "numpy")
_MISSING = "not installed"
_NOT_FEATURES = ("cuda12", "cuda13", "tpu", "dev", "test")
"""Extras that are not reported: accelerators are listed as devices, the others are for developers.
"""


def versions() -> dict[str, str]:
    """Returns name in lower case -> version of every installed distribution."""
    names = ((item.metadata["Name"], item.version) for item in metadata.distributions())
    return {name.lower(): version for name, version in names if name}


def check() -> Iterator[Diagnostic]:
    """Checks this package, Python, the required libraries and the extras."""
    installed = versions()
    yield Diagnostic(_SECTION, "qmix_jax", OK, run_metadata.describe())
    yield Diagnostic(_SECTION, "python", OK, f"{platform.python_version()} ({sys.executable})")
    try:
        lines = metadata.requires(_DISTRIBUTION) or ()
        extras = metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra") or ()
    except metadata.PackageNotFoundError:
        yield Diagnostic(
            _SECTION, "installation", WARN, "the package runs, but is not installed",
            "run pip install -e . in its folder, so that versions can be checked",
        )  # fmt: skip
        lines, extras = (), ()
    required = [requirements.Requirement(line) for line in lines]
    core = {item.name.lower(): item for item in required if item.marker is None}
    for name in _LISTED:
        yield _check_requirement(name, installed, core.get(name))
    others = sorted(name for name in core if name not in _LISTED)
    checks = [_check_requirement(name, installed, core[name]) for name in others]
    problems = [check for check in checks if check.fix]
    yield from problems
    if others and not problems:
        yield Diagnostic(_SECTION, "others", OK, f"{', '.join(others)}")
    yield _check_extras(sorted(set(extras) - set(_NOT_FEATURES)), required, installed)


def _check_requirement(
    name: str, installed: dict[str, str], required: requirements.Requirement | None
) -> Diagnostic:
    version = installed.get(name)
    if version is None:
        return Diagnostic(_SECTION, name, FAIL, _MISSING, f"pip install '{required or name}'")
    if required is not None and not required.specifier.contains(version, prereleases=True):
        message = f"{version}, but qmix_jax requires {name}{required.specifier}"
        fix = f"pip install '{name}{required.specifier}'"
        return Diagnostic(_SECTION, name, FAIL, message, fix)
    return Diagnostic(_SECTION, name, OK, version)


def _check_extras(
    extras: Sequence[str],
    required: Sequence[requirements.Requirement],
    installed: dict[str, str],
) -> Diagnostic:
    """Lists the installed extras; a wrong version of a package that one needs is a warning."""
    checks = {
        extra: [
            _check_requirement(item.name.lower(), installed, item)
            for item in required
            if _needed_by(extra, item)
        ]
        for extra in extras
    }
    missing = [extra for extra in extras if any(check.fix for check in checks[extra])]
    message = ", ".join(extra for extra in extras if extra not in missing) or "none"
    message += f"; not installed: {', '.join(missing)}" if missing else ""
    every = [check for extra in extras for check in checks[extra]]
    for wrong in (check for check in every if check.fix and check.message != _MISSING):
        message += f"; {wrong.name} {wrong.message}"
        return Diagnostic(_SECTION, "extras", WARN, message, wrong.fix)
    return Diagnostic(_SECTION, "extras", OK, message)


def _needed_by(extra: str, item: requirements.Requirement) -> bool:
    """Returns whether the extra needs the package on this platform, and the core does not."""
    marker = item.marker
    return marker is not None and marker.evaluate({"extra": extra}) > marker.evaluate({"extra": ""})
