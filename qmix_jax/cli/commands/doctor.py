"""`qmix-jax doctor`."""

import argparse

import qmix_jax
from qmix_jax.cli import arguments

SUMMARY = "check the installation: versions, devices, known conflicts, a short run"

_EXAMPLES = """\
  qmix-jax doctor
  qmix-jax doctor --json --no-self-test
"""


def parser() -> arguments.Parser:
    command = arguments.Parser(
        "doctor",
        "Check the installation. Exit code 1 if something is broken.",
        "[options]",
        _EXAMPLES,
    )
    command.flag("--json", "print JSON instead of a table")
    command.flag("--no-self-test", "skip the short training run")
    return command


def run(options: argparse.Namespace) -> int:
    return int(not qmix_jax.run_doctor(self_test=not options.no_self_test, as_json=options.json).ok)
