"""`qmix-jax lab`: which algorithms, which games, and where it is written."""

import datetime
import pathlib
from collections.abc import Sequence

from qmix_jax import config
from qmix_jax.cli import composition

_EXPERIMENT = "lab"
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
"""Algorithms that learn without replay."""


def run(games: str | None, algos: str | None, out: str | None, overrides: Sequence[str]) -> None:
    """Trains, measures, writes and prints.

    Args:
      games, algos: comma-separated names; None for all.
      out: folder to write to; by default `runs/lab/<time>`.
      overrides: of every configuration.
    Raises:
      ConfigError: a name that is not known, or a setting that cannot be honoured.
    """
    known = [name for name in composition.choices()["algo"] if name != "custom"]
    chosen = _chosen("--games", games, tuple(GAMES))
    picked = _chosen("--algos", algos, known)
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    configs = {
        (game, algo): config.load(
            composition.compose(
                f"experiment={_EXPERIMENT}",
                f"algo={algo}",
                *GAMES[game],
                *_TRAINERS.get(algo, ()),
                *overrides,
            )
        )
        for game in chosen
        for algo in picked
    }
    from qmix_jax.lab import build

    build.run_lab(configs, out or pathlib.Path("runs", "lab", now))


def _chosen(flag: str, text: str | None, allowed: Sequence[str]) -> list[str]:
    """Names in a comma-separated list. Raises: ConfigError for one that is not allowed."""
    names = list(allowed) if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in allowed:
            raise config.ConfigError(f"lab: {flag} {name!r}: {config.suggest(name, allowed)}")
    return names
