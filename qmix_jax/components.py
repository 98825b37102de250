"""Finds components by name: `qmix_jax.<kind>.<name>`, or a dotted module path of the user's own.

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
    """A component cannot be found or is not one."""


def names(kind: str) -> tuple[str, ...]:
    """Names of the components of a kind that ship with the package, sorted."""
    package = importlib.import_module(f"qmix_jax.{kind}")
    found = (module.name for module in pkgutil.iter_modules(package.__path__))
    return tuple(sorted(name for name in found if name != "base" and not name.startswith("_")))


def find(kind: str, name: str) -> ModuleType:
    """Imports the component `name` of `kind`.

    Args:
      kind: one of `KINDS`.
      name: a module name in `qmix_jax.<kind>`, or, with a dot in it, any importable module.
    Raises:
      ComponentError: unknown name, or a module without `Config` and `make`.
    """
    own = "." in name and not name.startswith(".")
    path = name if own else f"qmix_jax.{kind}.{name}"
    if not own and name not in names(kind):
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
    """`my_env.py:42`, the innermost frame in a folder; empty if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    found = [frame for frame in frames if folder in pathlib.Path(frame.filename).parents]
    if not found:
        return ""
    return f"{pathlib.Path(found[-1].filename).name}:{found[-1].lineno}"


def said_by(error: BaseException) -> str:
    """Type and first line of an exception, without JAX's pointers to its own pages."""
    first = (str(error).strip().splitlines() or [""])[0]
    first = first.partition(" For more information")[0].partition(" (https:")[0].rstrip(".:")
    return f"{type(error).__name__}: {first}"[:300]
