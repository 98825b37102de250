"""`qmix-jax rerun` and `qmix-jax doctor`."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

import qmix_jax
from qmix_jax import config


def rerun(arguments: Sequence[str]) -> int:
    """Repeats a run. 0 if it came to the same metrics, 1 if not."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    parser.error = _refuse
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--out")
    parser.add_argument("--tolerance", type=float)
    return int(not qmix_jax.rerun(**vars(parser.parse_intermixed_args(arguments))).equal)


def doctor(arguments: Sequence[str]) -> int:
    """Examines the installation. 1 if something is broken."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.error = _refuse
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-self-test", dest="self_test", action="store_false")
    chosen = parser.parse_intermixed_args(arguments)
    return int(not qmix_jax.run_doctor(self_test=chosen.self_test, as_json=chosen.json).ok)


def _refuse(message: str) -> NoReturn:
    raise config.ConfigError(f"command line: {message}")
