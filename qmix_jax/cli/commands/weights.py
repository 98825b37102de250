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
    command = arguments.Parser(
        "weights",
        "Play a greedy episode with the best policy of a run and draw its mixer's weights.",
        "DIR [options]",
        _EXAMPLES,
    )
    command.argument("directory", "DIR", "a run directory")
    command.option("--member", "N", "member of the run (default: 0)", type=int)
    command.option("--seed", "N", "seed of the episode (default: 0)", type=int)
    command.option("--out", "FILE", "PNG to write (default: `weights.png` in DIR)")
    return command


def run(options: argparse.Namespace) -> int:
    print(f"written to {qmix_jax.weights(**vars(options))}")
    return 0
