"""`qmix-jax render`: which episodes of which run, and where they are written."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

import yaml

from qmix_jax import config


def command(arguments: Sequence[str]) -> int:
    """Draws greedy episodes of a trained run.

    Args:
      arguments: of the command line, after `render`.
    Returns:
      The exit code.
    Raises:
      ConfigError: a flag or value that cannot be honoured.
    """
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    parser.error = _refuse
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    for name in ("--episodes", "--seed", "--member"):
        parser.add_argument(name, type=int)
    parser.add_argument("--fps", type=float)
    for name in ("--parameters", "--out"):
        parser.add_argument(name)
    chosen = vars(parser.parse_intermixed_args(list(arguments)))
    overrides = dict(_override(text) for text in chosen.pop("overrides", ()))
    from qmix_jax.render import build  # it brings in JAX, which `--help` need not wait for

    for number, one in enumerate(build.render_run(**chosen, overrides=overrides)):
        files = " ".join(str(path) for path in (one.animation, one.transcript, one.sheet) if path)
        outcome = f"return {one.episode_return:.2f}, {one.ending} after {one.steps} steps"
        print(f"episode {number}: {outcome}; written to {files}")
    return 0


def _override(text: str) -> tuple[str, Any]:
    """`key=value`, the value as in YAML."""
    key, equals, value = text.partition("=")
    if not equals:
        _refuse(f"{text!r} is no key=value; give one run directory, then env.options.key=value")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise config.ConfigError(f"command line: {text!r} is not YAML after the =") from error


def _refuse(message: str) -> NoReturn:
    raise config.ConfigError(f"command line: {message}")
