"""`qmix-jax export`."""

import argparse
import warnings

import qmix_jax
from qmix_jax.cli import arguments

SUMMARY = "export a trained policy that runs without this package"

_EXAMPLES = """\
  qmix-jax export DIR
  qmix-jax export DIR --format numpy --member 1 --out policy
  qmix-jax export DIR --format stablehlo --platforms cuda
"""


def parser() -> arguments.Parser:
    made = arguments.Parser(
        "export",
        "Write a trained policy as StableHLO, which needs JAX, and as weights with a NumPy runner.",
        "DIR [options]",
        _EXAMPLES,
    )
    made.argument("directory", metavar="DIR", help="a run directory")
    made.option(
        "--format",
        dest="formats",
        type=arguments.names,
        metavar="NAMES",
        help="of stablehlo,numpy (default: both)",
    )
    made.option(
        "--platforms",
        type=arguments.names,
        metavar="NAMES",
        help="platforms of the StableHLO, of cpu,cuda,rocm,tpu (default: cpu,cuda,tpu)",
    )
    made.option(
        "--member",
        type=arguments.integer_or("best"),
        metavar="N|best",
        help="member to export (default: best)",
    )
    made.option(
        "--parameters",
        metavar="best|final",
        help="which parameters (default: best)",
    )
    made.option("--out", metavar="FOLDER", help="where to write (default: `export` in DIR)")
    return made


def run(options: argparse.Namespace) -> int:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = qmix_jax.export_run(**vars(options))
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>10,} bytes  {path}")
    for warning in caught:
        print(warning.message)
    return 0
