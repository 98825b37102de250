"""`qmix-jax baseline`."""

import argparse
import json

from qmix_jax.cli import arguments, jobs

SUMMARY = "evaluate a random or heuristic policy for comparison"

_EXAMPLES = """\
  qmix-jax baseline experiment=mpe_spread
  qmix-jax baseline policy=heuristic seeds=8 --json
"""


def parser() -> arguments.Parser:
    command = arguments.Parser(
        "baseline",
        "Evaluate a policy that is not learned, in the same way as a trained one.\n"
        "policy=random (the default) is uniform over available actions; policy=heuristic is "
        "hand-written (SMAX only).",
        "[policy=heuristic] [group=choice ...] [key=value ...] [options]",
        _EXAMPLES,
    )
    command.flag("--json", "print one JSON line per configuration")
    arguments.add_overrides(command)
    return command


def run(options: argparse.Namespace) -> int:
    policies = [text for text in options.overrides if text.startswith("policy=")]
    options.overrides = [text for text in options.overrides if text not in policies]
    configs = jobs.configs(options)
    from qmix_jax.console import learning_curves  # these import JAX
    from qmix_jax.lab import baseline
    from qmix_jax.runs import storage

    policy = policies[-1].removeprefix("policy=") if policies else "random"
    for cfg in configs:
        result = baseline.baseline(cfg, policy)
        if options.json:
            print(json.dumps(storage.plain({**result._asdict(), "seed": cfg.seed})))
        else:
            counts = f"{result.episodes} episodes of {cfg.seeds} seed(s)"
            learning_curves.scores(f"{result.env}, policy {policy}: {counts}", result.metrics)
    return 0
