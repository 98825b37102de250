"""Time to a result: `python -m benchmarks.race smax_3m --seeds 3 --jaxmarl PYTHON CHECKOUT`.

Wall seconds, compilation included, until the mean greedy win rate over seeds first reaches the
target: qmix_jax with its defaults, peers as shipped or with your settings (`--try`).
"""

import argparse
import sys

from benchmarks import contest, measure
from benchmarks.peers import base

CASES = ("smax_3m", "smax_2s3z")
_TRIED = (
    "n_envs=16", "rollout_steps=128", "mixer_embed=64", "hypernet_embed=256", "reward_scale=10",
    "eval_every=25_000", "evaluate=true",
)  # fmt: skip
"""Default settings of a peer with `--try`."""


def main(arguments: list[str] | None = None) -> int:
    """Prints one table; returns 2 after a user error."""
    options = _parser().parse_args(arguments)
    try:
        rows = [_row(*runner, options) for runner in _runners(options)]
    except base.PeerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    notes = [f"target: mean greedy win rate {options.target} over {options.seeds} seed(s)"]
    report_options = measure.Options(False, 1, options.out, tuple(options.override))
    measure.report("race", rows, report_options, notes)
    return 0


def _runners(options: argparse.Namespace) -> list[tuple[str, contest.Entrant, base.Work]]:
    """Returns (name, entrant, work) of every run, ours first."""
    shipped = base.Work(options.case, options.env_steps, shipped=True)
    works = {} if options.no_shipped else {"as shipped": shipped}
    works |= {text: _work(options, text) for text in getattr(options, "try")}
    ours = contest.ours(("eval.every=25_000", *options.override))
    runners = [] if options.no_ours else [("qmix_jax, defaults", ours, shipped)]
    for name, enter in contest.peers(options).items():
        runners += [(f"{name}, {label}", enter, work) for label, work in works.items()]
    seeded = {"seed": options.seed, "seeds": options.seeds}
    return [(case, enter, base.Work(**{**vars(work), **seeded})) for case, enter, work in runners]


def _work(options: argparse.Namespace, text: str) -> base.Work:
    settings = [f"env_steps={options.env_steps}", *_TRIED, *text.split(",")]
    return base.work_from(options.case, settings)


def _row(
    case: str, enter: contest.Entrant, work: base.Work, options: argparse.Namespace
) -> measure.Row:
    print(f"{case}: {work.seeds} seed(s), up to {work.env_steps:,} env steps", flush=True)
    outcome = enter(work, options.timeout)
    reached = contest.seconds_to(outcome, options.target)
    spent = options.timeout  # compilation included
    if outcome.run_seconds is not None:
        spent = (outcome.compile_seconds or 0.0) + outcome.run_seconds
    wins = [contest.mean(point.win_rates) for point in outcome.curve]
    return {
        "case": f"{options.case}: {case}",
        "seconds to target": f"{reached:.0f}" if reached else f"> {spent:.0f}",
        "best win rate": max(wins, default=None),
        "last win rate": wins[-1] if wins else None,
        "env steps": outcome.env_steps,
        "gradient steps": outcome.gradient_steps,
        "compile s": outcome.compile_seconds,
        "run s": outcome.run_seconds,
        "limit": outcome.limit,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race", description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("override", nargs="*", help="further settings of qmix_jax: key=value")
    contest.add_arguments(parser)
    parser.add_argument("--seed", type=int, default=100, help="first seed (default: 100)")
    parser.add_argument("--env-steps", type=int, default=500_000,
                        help="budget per seed (default: 500000)")  # fmt: skip
    parser.add_argument("--target", type=float, default=0.8, help="win rate (default: 0.8)")
    parser.add_argument("--timeout", type=float, default=900.0,
                        help="seconds per run (default: 900)")  # fmt: skip
    parser.add_argument("--try", action="append", default=[], metavar="KEY=VALUE,...",
                        help="also run peers with these settings")  # fmt: skip
    parser.add_argument("--no-shipped", action="store_true", help="skip peers as shipped")
    parser.add_argument("--no-ours", action="store_true", help="skip qmix_jax")
    return parser


if __name__ == "__main__":
    sys.exit(main())
