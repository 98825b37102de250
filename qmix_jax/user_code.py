"""Errors of components that users write: one line that says where, instead of JAX's stack."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

from qmix_jax import components, config

_MACHINE = (OSError, RuntimeError, MemoryError)
"""What the machine raises; it says nothing of what an environment returned."""


@contextlib.contextmanager
def explained(cfg: config.ExperimentConfig) -> Iterator[None]:
    """Around building and compiling: what a module of the user's own raises is one line.

    Raises:
      ConfigError: for an exception from a component whose name has a dot, or about what such an
        environment returned. Other exceptions pass, a full disk or memory among them.
    """
    try:
        yield
    except config.ConfigError:
        raise
    except Exception as error:  # whatever the user's code raises
        said = _explanation(error, cfg)
        if said is None:
            raise
        raise config.ConfigError(said) from error


def _explanation(error: Exception, cfg: config.ExperimentConfig) -> str | None:
    names = {
        "env": cfg.env.name,
        "agent": cfg.agent.name,
        "mixer": cfg.algo.mixer.name if cfg.algo.mixer else "",
        "algo": cfg.algo.algorithm,
    }
    own = {kind: name for kind, name in names.items() if "." in name}
    places = {kind: _line_in(error, name) for kind, name in own.items()}
    blamed = next((kind for kind in own if places[kind]), "env")
    if blamed not in own or (not places[blamed] and isinstance(error, _MACHINE)):
        return None
    name, where = own[blamed], f" at {places[blamed]}" if places[blamed] else ""
    more = f"`qmix-jax check-env {name}` explains it" if blamed == "env" else "correct that"
    return f"{blamed}: {name!r} failed{where} ({components.describe(error)}); {more}"


def _line_in(error: Exception, name: str) -> str:
    """Where an exception passed through a module or its neighbours; empty if nowhere."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return components.line_of(error, pathlib.Path(file).parent) if file else ""
