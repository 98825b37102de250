"""`qmix-jax evaluate`."""

import argparse
import json
import pathlib

import qmix_jax
from qmix_jax import config
from qmix_jax.cli import arguments

SUMMARY = "evaluate a trained policy, also in another scenario"

_EXAMPLES = """\
  qmix-jax evaluate DIR --episodes 1000
  qmix-jax evaluate DIR env.options.scenario=5m_vs_6m --members best --seeds 5
  qmix-jax evaluate DIR --parameters final --seed last    repeat the last evaluation
"""


def parser() -> arguments.Parser:
    command = arguments.Parser(
        "evaluate",
        "Play greedy episodes with the policies of a run and print their metrics.",
        "DIR [env.options.key=value ...] [options]",
        _EXAMPLES,
    )
    command.argument("directory", "DIR", "a run directory")
    command.overrides("other settings of `env`; shapes must stay the same")
    command.option(
        "--episodes", "N", "episodes per member and seed (default: as in training)", type=int
    )
    command.option(
        "--seed",
        "N|last",
        "seed of the episodes; last: that of the last evaluation (default: 0)",
        type=arguments.integer_or("last"),
    )
    command.option("--seeds", "N", "number of seeds (default: 1)", type=int)
    command.option(
        "--members", "0,1|best", "members to evaluate (default: all)", type=arguments.members
    )
    command.option("--parameters", "best|final", "parameters to evaluate (default: best)")
    command.flag("--json", "print one JSON line instead of a table")
    command.option("--out", "FILE", "also write the JSON line to a file", default=None)
    return command


def run(options: argparse.Namespace) -> int:
    settings = vars(options)
    out, as_json = settings.pop("out"), settings.pop("json")
    values = arguments.values(settings.pop("overrides"))
    result = qmix_jax.evaluate_run(**settings, values=values)
    from qmix_jax.console import learning_curves
    from qmix_jax.runs import storage

    line = json.dumps(storage.plain(result._asdict()))
    if out is not None:
        _write(out, line)
    if as_json:
        print(line)
        return 0
    count = result.episodes * max(1, len(result.seeds))
    title = (
        f"{result.env}, {result.parameters} parameters: {count} episodes of "
        f"{len(result.members)} member(s)"
    )
    means = {name: values.mean(axis=1) for name, values in result.metrics.items()}
    learning_curves.scores(title, means)
    return 0


def _write(path: str, line: str) -> None:
    try:
        pathlib.Path(path).write_text(f"{line}\n", encoding="utf-8")
    except OSError as error:
        raise config.ConfigError(
            f"evaluate: cannot write {path!r} ({error.strerror}); choose another --out"
        ) from error
