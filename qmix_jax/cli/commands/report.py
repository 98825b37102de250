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
    made = arguments.Parser(
        "report",
        "Compare the settings of runs and sweeps, and write a report that opens offline.",
        "DIR ... [options]",
        _EXAMPLES,
    )
    made.argument(
        "directories", nargs="+", metavar="DIR", help="runs, sweeps, or folders of either"
    )
    made.option(
        "--out", metavar="FOLDER", help="where to write (default: `report` in the first DIR)"
    )
    made.option(
        "--last",
        type=int,
        metavar="N",
        help="evaluations averaged into a seed's score (default: 3)",
    )
    made.option("--resamples", type=int, metavar="N", help="bootstrap samples (default: 2000)")
    made.option(
        "--drawn", type=int, metavar="N", help="settings in a figure, at most (default: 10)"
    )
    return made


def run(options: argparse.Namespace) -> int:
    qmix_jax.report(**vars(options))
    return 0
