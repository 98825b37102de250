"""`qmix-jax train resume=DIR [key=value ...]`: resumes a run or a sweep."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from qmix_jax import config
from qmix_jax.cli import arguments, composition


def run(directory: str, overrides: Sequence[str]) -> int:
    """Resumes training and returns the exit code.

    Args:
      directory: a run directory, or that of a sweep.
      overrides: changes, without `resume=`.
    Raises:
      ConfigError: a key that cannot be changed, or nothing to resume.
    """
    if not pathlib.Path(directory).is_dir():
        raise config.ConfigError(
            f"resume: {directory!r} is not a directory; give that of a run or a sweep, or "
            "resume=auto"
        )
    values = changes(overrides)
    from qmix_jax import api  # imports JAX, for which an error need not wait
    from qmix_jax.lab import pages
    from qmix_jax.machine import process_group, signals
    from qmix_jax.runs import checkpoint, outcomes

    try:
        if api.is_sweep(directory):
            results = api.resume_many(directory, values)
        else:
            results = (api.resume(directory, values),)
            pages.print_learnt(results[0])
    except (outcomes.NonFiniteError, process_group.ProcessError, checkpoint.WriteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    failures = [text for result in results if result for text in result.failures.values()]
    for text in failures:
        print(f"error: {text}", file=sys.stderr)
    if any(result is None or result.interrupted for result in results):
        return signals.exit_code()
    return 1 if failures else 0


def changes(overrides: Sequence[str]) -> dict[str, Any]:
    """Returns dotted key -> value; a choice, such as `logger=wandb`, becomes its section."""
    values = arguments.values(overrides)
    for key in set(values) & set(composition.choices()):
        if isinstance(values[key], str | list):
            (override,) = [text for text in overrides if text.lstrip("+").startswith(f"{key}=")]
            values[key] = composition.compose(override).get(key)
    return values
