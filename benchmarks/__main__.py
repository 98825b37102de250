"""`python -m benchmarks NAME [--smoke] [--repeats N] [--out FILE] [group=choice] [key=value]`."""

import argparse
import importlib
import pathlib
import sys

from benchmarks import measure
from qmix_jax import config

NAMES = {
    "train": "the whole program, split into rollout, replay and gradient steps",
    "update": "one gradient update alone, as a share of the matrix-product rate",
    "family": "one gradient update of every algorithm, relative to QMIX",
    "rollout": "collection alone, over numbers of environments",
    "replay": "adding and sampling alone, over storage types and capacities",
    "compile": "seconds to the first result, cold and with the persistent cache",
    "population": "total speed of P members",
    "memory": "bytes per member",
    "record": "short runs to compare versions by; out=DIR [only=NAME,...]",
    "equality": "recorded runs of two versions, bit for bit; before=DIR after=DIR",
    "structure": "lines, import circles, hops to the compiled program; [tree=DIR ...]",
    "export": "a trained policy in each format: actions, size and latency; run=DIR",
    "sweep": "a multirun as populations against the same jobs one by one",
    "acceptance": "what learning must reach, over many seeds; NAME",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one benchmark; its exit code, or 2 and one line on stderr for the user's mistake."""
    options = _parser().parse_intermixed_args(arguments)
    chosen = measure.Options(
        smoke=options.smoke,
        repeats=2 if options.smoke else options.repeats,
        out=options.out,
        overrides=tuple(options.overrides),
    )
    try:
        return importlib.import_module(f"benchmarks.{options.name}").run(chosen) or 0
    except (config.ConfigError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:11} {text}" for name, text in NAMES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures this machine. Compilation is timed apart; figures are medians.",
        epilog=f"benchmarks\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=NAMES, metavar="NAME", help="which benchmark")
    parser.add_argument("overrides", nargs="*", help="as for qmix-jax train (update: T=16 H=64)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, seconds")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls per case (7)")
    default = pathlib.Path("runs/benchmarks.jsonl")
    parser.add_argument("--out", type=pathlib.Path, default=default, help=f"({default})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
