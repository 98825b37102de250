"""`python -m benchmarks NAME [--smoke] [--repeats N] [--out FILE] [group=choice] [key=value]`."""

import argparse
import importlib
import pathlib
import sys

from benchmarks import measure
from qmix_jax import config

NAMES = {
    "train": "speed of training, and the shares of rollout, replay and gradient steps",
    "update": "one gradient update, also as a share of the matrix-product rate",
    "family": "one gradient update of every algorithm, relative to QMIX",
    "rollout": "speed of collection by number of environments",
    "replay": "time to add and sample, by storage type and capacity",
    "compile": "seconds to the first result, cold and with the persistent cache",
    "population": "total speed of P members",
    "memory": "bytes per member",
    "record": "record short runs of this version; out=DIR [only=NAME,...]",
    "equality": "compare recorded runs of two versions bit for bit; before=DIR after=DIR",
    "structure": "lines, import cycles, names, calls to the compiled program; [tree=DIR ...]",
    "export": "a trained policy in each format: actions, size and latency; run=DIR",
    "sweep": "a multirun trained as populations, compared with one job at a time",
    "acceptance": "check learning results over many seeds; NAME",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one benchmark; returns its exit code, or 2 after a user error."""
    args = _parser().parse_intermixed_args(arguments)
    options = measure.Options(
        smoke=args.smoke,
        repeats=2 if args.smoke else args.repeats,
        out=args.out,
        overrides=tuple(args.overrides),
    )
    try:
        return importlib.import_module(f"benchmarks.{args.name}").run(options) or 0
    except (config.ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    table = "\n".join(f"  {name:11} {text}" for name, text in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run a benchmark on this machine. Reports medians; compilation is separate.",
        epilog=f"benchmarks:\n{table}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=NAMES, metavar="NAME", help="name of the benchmark")
    parser.add_argument(
        "overrides", nargs="*", help="settings as for `qmix-jax train` (update: T=16 H=64)"
    )
    parser.add_argument("--smoke", action="store_true", help="run tiny sizes, in seconds")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls per case (default: 7)")
    default = pathlib.Path("runs/benchmarks.jsonl")
    parser.add_argument(
        "--out", type=pathlib.Path, default=default,
        help=f"file to append JSON lines to (default: {default})",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
