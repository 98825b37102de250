"""Finds components by name: `qmix_jax.<kind>.<name>`, or the dotted path of a user-defined module.

A component is a module with a `Config` (a `qmix_jax.config.Model`) and a `make` function.
"""

import importlib
import importlib.util
import pathlib
import pkgutil
import traceback
from types import ModuleType

KINDS = ("envs", "agents", "mixers", "algorithms")


class ComponentError(ValueError):
    """A component does not exist, or its module lacks `Config` or `make`."""


def names(kind: str) -> tuple[str, ...]:
    """Returns the names of the package's components of a kind, sorted."""
    package = importlib.import_module(f"qmix_jax.{kind}")
    modules = (module.name for module in pkgutil.iter_modules(package.__path__))
    return tuple(sorted(name for name in modules if name != "base" and not name.startswith("_")))


def find(kind: str, name: str) -> ModuleType:
    """Imports the component `name` of `kind`.

    Args:
      kind: one of `KINDS`.
      name: a module of `qmix_jax.<kind>`, or, if dotted, any importable module.
    Raises:
      ComponentError: unknown name, or a module without `Config` or `make`.
    """
    user_defined = "." in name and not name.startswith(".")
    path = name if user_defined else f"qmix_jax.{kind}.{name}"
    if not user_defined and name not in names(kind):
        raise ComponentError(
            f"unknown name {name!r}; allowed: {', '.join(names(kind))}, "
            "or the dotted path of your own module"
        )
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise
        raise ComponentError(
            f"no module {error.name!r} can be imported for {name!r}; "
            "install it or put its folder on PYTHONPATH"
        ) from error
    missing = [part for part in ("Config", "make") if not hasattr(module, part)]
    if missing:
        raise ComponentError(f"module {path!r} has no {' and no '.join(missing)}")
    return module


def line_of(error: BaseException, folder: pathlib.Path) -> str:
    """Returns the innermost frame in a folder, such as `my_env.py:42`; empty if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if folder in pathlib.Path(frame.filename).parents]
    return f"{pathlib.Path(inside[-1].filename).name}:{inside[-1].lineno}" if inside else ""


def describe(error: BaseException) -> str:
    """Returns type and first line of an exception, without links to JAX's documentation."""
    first = (str(error).strip().splitlines() or [""])[0]
    first = first.partition(" For more information")[0].partition(" (https:")[0].rstrip(".:")
    return f"{type(error).__name__}: {first}"[:300]
