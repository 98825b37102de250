"""`qmix-jax weights`."""

import argparse

import qmix_jax
from qmix_jax.cli import arguments

SUMMARY = "draw a mixer's weights over an episode (Qatten, QPLEX)"

_EXAMPLES = """\
  qmix-jax weights runs/smax_3m/qatten/2026-01-31_12-00-00
  qmix-jax weights runs/smax_3m/qplex/2026-01-31_12-00-00 --member 1 --out weights.png
"""


def parser() -> arguments.Parser:
    made = arguments.Parser(
        "weights",
        "Play a greedy episode with the best policy of a run and draw its mixer's weights.",
        "DIR [options]",
        _EXAMPLES,
    )
    made.argument("directory", metavar="DIR", help="a run directory")
    made.option("--member", type=int, metavar="N", help="member of the run (default: 0)")
    made.option("--seed", type=int, metavar="N", help="seed of the episode (default: 0)")
    made.option("--out", metavar="FILE", help="PNG to write (default: `weights.png` in DIR)")
    return made


def run(options: argparse.Namespace) -> int:
    print(f"written to {qmix_jax.weights(**vars(options))}")
    return 0
