"""Reports exceptions of user-defined components in one line that says where they occurred."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

from qmix_jax import components, config

_SYSTEM_ERRORS = (OSError, RuntimeError, MemoryError)
"""Errors of the machine: an environment is to blame only if its code is in the traceback."""


@contextlib.contextmanager
def explain_errors(cfg: config.ExperimentConfig) -> Iterator[None]:
    """Wraps building and compiling.

    Raises:
      ConfigError: in place of an exception from a user-defined component (one whose name has a
        dot), or caused by the output of a user-defined environment. Others, such as a full disk
        or memory, are not converted.
    """
    try:
        yield
    except config.ConfigError:
        raise
    except Exception as error:  # user code may raise anything
        message = _explanation(error, cfg)
        if message is None:
            raise
        raise config.ConfigError(message) from error


def _explanation(error: Exception, cfg: config.ExperimentConfig) -> str | None:
    names = {
        "env": cfg.env.name,
        "agent": cfg.agent.name,
        "mixer": cfg.algo.mixer.name if cfg.algo.mixer else "",
        "algo": cfg.algo.algorithm,
    }
    custom = {kind: name for kind, name in names.items() if "." in name}
    lines = {kind: _line_in(error, name) for kind, name in custom.items()}
    kind = next((kind for kind in custom if lines[kind]), "env")
    if kind not in custom or (not lines[kind] and isinstance(error, _SYSTEM_ERRORS)):
        return None
    name, where = custom[kind], f" at {lines[kind]}" if lines[kind] else ""
    hint = f"run `qmix-jax check-env {name}` for details" if kind == "env" else "fix the module"
    return f"{kind}: {name!r} failed{where} ({components.describe(error)}); {hint}"


def _line_in(error: Exception, name: str) -> str:
    """The innermost traceback line in a module's folder, `""` if none."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return components.line_of(error, pathlib.Path(file).parent) if file else ""
