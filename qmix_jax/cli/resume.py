"""`qmix-jax train resume=DIR [key=value ...]`: goes on with a run or a sweep."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser import overrides_parser

from qmix_jax import config
from qmix_jax.cli import composition


def run(directory: str, arguments: Sequence[str]) -> int:
    """Trains on, and returns the exit code.

    Args:
      arguments: overrides, besides `resume=`; a group's choice is taken whole: `logger=wandb`.
    Raises:
      ConfigError: a flag, a key that cannot be honoured, or nothing to go on from.
    """
    if not pathlib.Path(directory).is_dir():
        raise config.ConfigError(
            f"resume: {directory!r} is no directory; give that of a run or a sweep, or resume=auto"
        )
    changes = _changes(arguments)
    from qmix_jax import api  # these bring in JAX, which a refusal need not wait for
    from qmix_jax.lab import pages
    from qmix_jax.machine import process_group, signals
    from qmix_jax.runs import checkpoint, outcomes

    try:
        if api.is_sweep(directory):
            found = api.resume_many(directory, changes)
        else:
            found = (api.resume(directory, changes),)
            pages.print_learnt(found[0])
    except (outcomes.NonFiniteError, process_group.ProcessError, checkpoint.WriteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    failures = [text for one in found if one is not None for text in one.failures.values()]
    for text in failures:
        print(f"error: {text}", file=sys.stderr)
    if any(one is None or one.interrupted for one in found):
        return signals.exit_code()
    return 1 if failures else 0


def _changes(arguments: Sequence[str]) -> dict[str, Any]:
    """Dotted keys -> values."""
    flags = [argument for argument in arguments if argument.startswith("-")]
    if flags:
        raise config.ConfigError(
            f"command line: {flags[0]} does not go with resume=DIR, which repeats what was started;"
            " give key=value only"
        )
    changes: dict[str, Any] = {}
    for override in overrides_parser.OverridesParser.create().parse_overrides(list(arguments)):
        key = override.key_or_group
        if override.is_sweep_override() or key.startswith("hydra"):
            raise config.ConfigError(
                f"command line: {override.input_line} does not go with resume=DIR; give one value "
                "for each key, and none of Hydra's own"
            )
        if key in composition.choices():
            composed = composition.compose(override.input_line or "")
            changes[key] = composed.get(key)
        else:
            changes[key] = override.value()
    return changes
