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
    made = arguments.Parser(
        "doctor",
        "Check the installation. Exit code 1 if something is broken.",
        "[options]",
        _EXAMPLES,
    )
    made.option("--json", action="store_true", default=False, help="print JSON instead of a table")
    made.option(
        "--no-self-test",
        dest="self_test",
        action="store_false",
        default=True,
        help="skip the short training run",
    )
    return made


def run(options: argparse.Namespace) -> int:
    return int(not qmix_jax.run_doctor(self_test=options.self_test, as_json=options.json).ok)
