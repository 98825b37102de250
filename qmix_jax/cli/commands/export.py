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
    command = arguments.Parser(
        "export",
        "Write a trained policy as StableHLO, which needs JAX, and as weights with a NumPy runner.",
        "DIR [options]",
        _EXAMPLES,
    )
    command.argument("directory", "DIR", "a run directory")
    command.option(
        "--format",
        "NAMES",
        "formats, of stablehlo,numpy (default: both)",
        dest="formats",
        type=arguments.names,
    )
    command.option(
        "--platforms",
        "NAMES",
        "StableHLO platforms, of cpu,cuda,rocm,tpu (default: cpu,cuda,tpu)",
        type=arguments.names,
    )
    command.option(
        "--member", "N|best", "member to export (default: best)", type=arguments.integer_or("best")
    )
    command.option("--parameters", "best|final", "parameters to export (default: best)")
    command.option("--out", "FOLDER", "where to write (default: `export` in DIR)")
    return command


def run(options: argparse.Namespace) -> int:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = qmix_jax.export_run(**vars(options))
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>10,} bytes  {path}")
    for warning in caught:
        print(warning.message)
    return 0
