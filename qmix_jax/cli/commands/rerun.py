"""`qmix-jax rerun`."""

import argparse

import qmix_jax
from qmix_jax.cli import arguments

SUMMARY = "train a run again and compare the metrics"

_EXAMPLES = """\
  qmix-jax rerun DIR
  qmix-jax rerun DIR --tolerance 1e-3 --out again
"""


def parser() -> arguments.Parser:
    command = arguments.Parser(
        "rerun",
        "Train a run again from its configuration and compare the metrics. Exit code 1 if they "
        "differ.",
        "DIR [options]",
        _EXAMPLES,
    )
    command.argument("directory", "DIR", "a run directory")
    command.option("--out", "FOLDER", "where to train (default: `DIR.rerun-<n>`)")
    command.option(
        "--tolerance", "X", "relative difference that counts as equal (default: 1e-4)", type=float
    )
    return command


def run(options: argparse.Namespace) -> int:
    return int(not qmix_jax.rerun(**vars(options)).equal)
