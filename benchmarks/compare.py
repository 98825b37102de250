"""Speed at equal work: `python -m benchmarks.compare CASE [--jaxmarl PYTHON CHECKOUT] ...`.

Every entrant trains with the same number of environments, steps, sequences, network sizes and
gradient steps, in a separate process; entrants alternate. Remaining differences are printed.
"""

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence

from benchmarks import contest, measure
from benchmarks.peers import base

_SLACK = 0.02
"""Tolerated relative difference in gradient steps: learning starts at slightly different steps."""

CASES = {
    "smax_2s3z": base.Work(
        environment="smax_2s3z", env_steps=200_000, n_envs=16, rollout_steps=128,
        gradient_steps=8, capacity=512, mixer_embed=64, hypernet_embed=256, target_period=80,
        reward_scale=10.0,
    ),
    "mpe_spread": base.Work(
        environment="mpe_spread", env_steps=400_000, gamma=0.9, capacity=496, hypernet_embed=128,
    ),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Prints one table; returns 1 for unequal work, 2 after a user error."""
    options = _parser().parse_args(arguments)
    changes = {"seeds": options.seeds, "evaluate": options.evaluate}
    for name in ("env_steps", "hidden", "warm_up"):
        if getattr(options, name):
            changes[name] = getattr(options, name)
    work = base.Work(**{**vars(CASES[options.case]), **changes})
    if options.jaxmarl:
        work = contest.learning_with_jaxmarl(work)
    entrants = {"qmix_jax": contest.ours(options.override), **contest.peers(options)}
    if options.torch:
        entrants["pytorch"] = contest.pytorch
    try:
        runs = _alternate(entrants, work, options)
    except base.PeerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    unequal = unequal_work({name: outcomes[-1] for name, outcomes in runs.items()})
    _report(runs, work, options, unequal)
    for line in unequal:
        print(f"error: {line}", file=sys.stderr)
    return 1 if unequal else 0


def _alternate(
    entrants: Mapping[str, contest.Entrant], work: base.Work, options: argparse.Namespace
) -> dict[str, list[base.Outcome]]:
    runs: dict[str, list[base.Outcome]] = {name: [] for name in entrants}
    for _ in range(options.repeats):
        for name, enter in entrants.items():
            print(f"{name}: {work.env_steps:,} env steps, {work.seeds} seed(s)", flush=True)
            runs[name].append(enter(work, options.timeout))
    return runs


def unequal_work(outcomes: Mapping[str, base.Outcome]) -> list[str]:
    """Returns a line per entrant whose finished run took other gradient steps than ours."""
    ours = outcomes["qmix_jax"].gradient_steps or 0
    return [
        f"{name}: {outcome.gradient_steps} gradient steps, ours {ours}: not equal work"
        for name, outcome in outcomes.items()
        if outcome.limit is None and abs((outcome.gradient_steps or 0) - ours) > _SLACK * ours
    ]


def _report(
    runs: Mapping[str, list[base.Outcome]],
    work: base.Work,
    options: argparse.Namespace,
    unequal: Sequence[str],
) -> None:
    speeds = {name: _median(outcomes) for name, outcomes in runs.items()}
    rows = [
        _row(f"{options.case}: {name}", outcomes[-1], speeds[name], speeds["qmix_jax"])
        for name, outcomes in runs.items()
    ]
    notes = [f"{name}: {note}" for name, outcomes in runs.items() for note in outcomes[0].notes]
    notes.append(f"medians of {options.repeats} run(s) each, entrants alternating; hidden "
                 f"{work.hidden}; evaluation {'inside' if work.evaluate else 'off'}")  # fmt: skip
    report_options = measure.Options(False, options.repeats, options.out, tuple(options.override))
    measure.report("compare", rows, report_options, [*notes, *unequal])
    if work.evaluate:
        points = [row for name, outcomes in runs.items() for row in _points(name, outcomes[-1])]
        measure.report("compare: curves", points, report_options, notes)


def _median(outcomes: list[base.Outcome]) -> float:
    speeds = [outcome.env_steps_per_s for outcome in outcomes if outcome.env_steps_per_s]
    return statistics.median(speeds) if speeds else float("nan")


def _row(case: str, outcome: base.Outcome, speed: float, our_speed: float) -> measure.Row:
    last = outcome.curve[-1] if outcome.curve else None
    return {
        "case": case,
        "env steps": outcome.env_steps,
        "gradient steps": outcome.gradient_steps,
        "env steps/s": speed,
        "ours / theirs": our_speed / speed,
        "compile s": outcome.compile_seconds,
        "run s": outcome.run_seconds,
        "last return": contest.mean(last.returns) if last else None,
        "last win rate": contest.mean(last.win_rates) if last and last.win_rates else None,
        "limit": outcome.limit,
    }


def _points(name: str, outcome: base.Outcome) -> list[measure.Row]:
    return [
        {
            "case": name,
            "env steps": point.env_steps,
            "seconds": point.wall_seconds,
            "return": contest.mean(point.returns),
            "win rate": contest.mean(point.win_rates) if point.win_rates else None,
        }
        for point in outcome.curve
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("override", nargs="*", help="further settings of qmix_jax: key=value")
    contest.add_arguments(parser)
    parser.add_argument("--torch", action="store_true", help="include the PyTorch baseline")
    parser.add_argument("--env-steps", type=int, help="env steps per seed")
    parser.add_argument("--hidden", type=int, help="hidden units of the agent")
    parser.add_argument("--warm-up", type=int, help="env steps before the first gradient step")
    parser.add_argument("--evaluate", action="store_true", help="evaluate, for learning curves")
    parser.add_argument("--repeats", type=int, default=3, help="runs per entrant (default: 3)")
    parser.add_argument("--timeout", type=float, default=600.0,
                        help="seconds per run (default: 600)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
