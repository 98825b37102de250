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
  qmix-jax evaluate DIR --parameters final --seed last    the last evaluation again
"""


def parser() -> arguments.Parser:
    made = arguments.Parser(
        "evaluate",
        "Play greedy episodes with the policies of a run and print their metrics.",
        "DIR [env.options.key=value ...] [options]",
        _EXAMPLES,
    )
    made.argument("directory", metavar="DIR", help="a run directory")
    made.argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="keys of `env`; shapes must stay the same",
    )
    made.option(
        "--episodes",
        type=int,
        metavar="N",
        help="episodes per member and seed (default: as in training)",
    )
    made.option(
        "--seed",
        type=arguments.integer_or("last"),
        metavar="N|last",
        help="seed of the episodes; last: those of the last evaluation (default: 0)",
    )
    made.option("--seeds", type=int, metavar="N", help="number of seeds (default: 1)")
    made.option(
        "--members",
        type=arguments.members,
        metavar="0,1|best",
        help="members to evaluate (default: all)",
    )
    made.option(
        "--parameters",
        metavar="best|final",
        help="which parameters (default: best)",
    )
    made.option(
        "--json", action="store_true", default=False, help="print one JSON line instead of a table"
    )
    made.option("--out", default=None, metavar="FILE", help="also write the JSON line there")
    return made


def run(options: argparse.Namespace) -> int:
    settings = vars(options)
    out, as_json = settings.pop("out"), settings.pop("json")
    values = arguments.values(settings.pop("overrides", ()))
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
