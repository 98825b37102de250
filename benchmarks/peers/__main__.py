"""`python -m benchmarks.peers PEER ENVIRONMENT --python ... --checkout ... key=value ...`."""

import argparse
import sys

from benchmarks.peers import base


def main(arguments: list[str] | None = None) -> int:
    """Prints one JSON line; returns 2, with one line on stderr, if the peer cannot run."""
    options = _parser().parse_intermixed_args(arguments)
    try:
        outcome = base.run(
            options.peer,
            base.work_from(options.environment, options.settings),
            python=options.python,
            checkout=options.checkout,
            timeout=options.timeout,
            environ=dict(pair.split("=", 1) for pair in options.environ),
            log=options.log,
        )
    except base.PeerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(base.to_json(outcome))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("peer", choices=base.PEERS)
    parser.add_argument("environment", choices=base.ENVIRONMENTS)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="fields of Work")
    parser.add_argument("--python", required=True, help="interpreter with the peer's packages")
    parser.add_argument("--checkout", help="source tree of the peer")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds (default: 600)")
    parser.add_argument("--environ", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--log", help="file for the peer's output")
    return parser


if __name__ == "__main__":
    sys.exit(main())
