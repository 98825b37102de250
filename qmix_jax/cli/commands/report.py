"""`qmix-jax report`."""

import argparse

import qmix_jax
from qmix_jax.cli import arguments

SUMMARY = "compare runs and sweeps: ranking, intervals, curves, one HTML page"

_EXAMPLES = """\
  qmix-jax report runs/smax_3m
  qmix-jax report runs/multirun/2026-01-31_12-00-00 search --out comparison
"""


def parser() -> arguments.Parser:
    command = arguments.Parser(
        "report",
        "Compare the settings of runs and sweeps, and write a self-contained HTML report.",
        "DIR ... [options]",
        _EXAMPLES,
    )
    command.argument("directories", "DIR", "runs, sweeps, or folders of either", nargs="+")
    command.option("--out", "FOLDER", "where to write (default: `report` in the first DIR)")
    command.option("--last", "N", "evaluations averaged into a seed's score (default: 3)", type=int)
    command.option("--resamples", "N", "bootstrap samples (default: 2000)", type=int)
    command.option(
        "--top", "N", "show at most this many settings in a figure (default: 10)", type=int
    )
    return command


def run(options: argparse.Namespace) -> int:
    qmix_jax.report(**vars(options))
    return 0
