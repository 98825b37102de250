"""`qmix-jax lab`."""

import argparse
import datetime
import pathlib
from collections.abc import Sequence

from qmix_jax import config
from qmix_jax.cli import arguments, composition

SUMMARY = "compare learnt with exact joint values on small games"

GAMES = {
    **{
        name: ("env=matrix", f"env.options.game={name}")
        for name in ("Q3", "HARD", "P2", "G104", "CLIMB", "COORD", "2B")
    },
    **{f"PEN{k}": ("env=matrix", "env.options.game=PEN", f"env.options.penalty={k}.0")
       for k in (0, -25, -100)},
    "two_step": ("env=two_step",),
}  # fmt: skip
"""Game -> overrides."""
_TRAINERS = {"pqn_qmix": ("trainer=pqn",), "pqn_vdn": ("trainer=pqn",)}
"""Overrides of algorithms that learn without replay."""

_EXAMPLES = """\
  qmix-jax lab
  qmix-jax lab --games CLIMB,two_step --algos vdn,qmix,qplex seeds=4
"""


def parser() -> arguments.Parser:
    command = arguments.Parser(
        "lab",
        "Train algorithms on small games, compare learnt with exact joint values, and write "
        "pictures and a page.",
        "[--games NAMES] [--algos NAMES] [--out FOLDER] [key=value ...]",
        _EXAMPLES,
    )
    command.overrides("overrides of every configuration")
    command.option("--games", "NAMES", f"games, of {','.join(GAMES)} (default: all)", default=None)
    command.option("--algos", "NAMES", "choices of algo (default: all)", default=None)
    command.option("--out", "FOLDER", "where to write (default: runs/lab/<time>)", default=None)
    return command


def run(options: argparse.Namespace) -> int:
    algos = [name for name in composition.choices()["algo"] if name != "custom"]
    games = _names("--games", options.games, tuple(GAMES))
    algos = _names("--algos", options.algos, algos)
    configs = {
        (game, algo): config.load(
            composition.compose(
                "experiment=lab",
                f"algo={algo}",
                *GAMES[game],
                *_TRAINERS.get(algo, ()),
                *options.overrides,
            )
        )
        for game in games
        for algo in algos
    }
    from qmix_jax.lab import build  # imports JAX, for which `--help` need not wait

    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    build.run_lab(configs, options.out or pathlib.Path("runs", "lab", now))
    return 0


def _names(flag: str, text: str | None, allowed: Sequence[str]) -> Sequence[str]:
    """Reads a comma-separated list; None is all. Raises: ConfigError for an unknown name."""
    names = allowed if text is None else arguments.names(text)
    for name in names:
        if name not in allowed:
            raise config.ConfigError(f"lab: {flag} {name!r}: {config.suggest(name, allowed)}")
    return names
