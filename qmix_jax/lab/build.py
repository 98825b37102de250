"""`qmix_jax.run_lab`: trains algorithms on small games and compares them with exact solutions."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from qmix_jax import api, config, groups, program, reprs
from qmix_jax.console import progress
from qmix_jax.envs import base
from qmix_jax.lab import figures, measure, pages
from qmix_jax.runs import metadata, record

Configs = Mapping[tuple[str, str], config.ExperimentConfig]
"""(game, algorithm) -> configuration."""


class Lab(NamedTuple):
    """Result of `run_lab`.

    Attributes:
      results: one per algorithm and game, in the order of the configurations.
      page: Markdown file with tables and pictures; the pictures are in the same folder.
    """

    results: tuple[measure.GameResult, ...]
    page: pathlib.Path

    def summary(self) -> dict[str, str]:
        """Fields of `repr`: the page, and the returns reached on each game."""
        reached = {
            f"{result.game} {result.algo}": ", ".join(
                f"{value:g} ({n}/{result.seeds} seeds)" for value, n in result.reached.items()
            )
            for result in self.results
        }
        return {"page": str(self.page), **reached}

    __repr__, _repr_html_ = reprs.text, reprs.html


def run_lab(configs: Configs, directory: str | os.PathLike[str]) -> Lab:
    """Trains every configuration and compares the learnt joint values with the exact ones.

    A second call with the same directory skips finished runs and resumes the others from their
    last checkpoint.

    Args:
      configs: games of two agents whose joint values can be tabulated (`matrix`, `two_step`).
      directory: for `lab.md`, a picture per game, `lab.json`, and the run directories in `runs`.
    Returns:
      A `Lab`.
    Raises:
      ConfigError: a game without decision points or not of two agents, a setting that cannot be
        honoured, or that differs from an earlier call's; nothing has been compiled.
    """
    points = {game: _decision_points(game, cfg) for (game, _), cfg in configs.items()}
    root = pathlib.Path(directory)
    paths = {(game, algo): root / "runs" / f"{game}_{algo}" for game, algo in configs}
    jobs = [
        api.Job(
            cfg.model_copy(update={"resume": "auto"}), paths[key], "qmix-jax lab", " ".join(key)
        )
        for key, cfg in configs.items()
        if not _finished(cfg, paths[key])
    ]
    if jobs:
        api.train_many(jobs, root / "runs")
    results = tuple(
        _measure(*key, api.load_run(paths[key]))
        for key, cfg in configs.items()
        if _finished(cfg, paths[key])
    )
    return Lab(results, _write(results, points, root))


def _finished(cfg: config.ExperimentConfig, path: pathlib.Path) -> bool:
    """Returns whether the directory has a finished run of this configuration.

    Raises: ConfigError for a run of another configuration.
    """
    reached = record.read_summary(path)
    if reached is None or reached["interrupted"]:
        return False
    changed = groups.differing_keys(metadata.read_run_config(path), cfg)
    if changed:
        raise config.ConfigError(
            f"lab: {str(path)!r} has a run with other settings ({', '.join(changed)}); "
            "choose another --out"
        )
    return True


def _write(
    results: Sequence[measure.GameResult],
    points: Mapping[str, Sequence[base.DecisionPoint]],
    root: pathlib.Path,
) -> pathlib.Path:
    """Writes page, pictures and JSON, and prints the tables; returns the path of the page."""
    root.mkdir(parents=True, exist_ok=True)
    games = {
        game: [result for result in results if result.game == game]
        for game in dict.fromkeys(result.game for result in results)
    }
    for game, of_game in games.items():
        (root / f"{game}.png").write_bytes(figures.tables(of_game, points[game]))
    plain = [pages.plain(result) for result in results]
    (root / "lab.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    path = root / "lab.md"
    path.write_text(pages.markdown(games, points), encoding="utf-8")
    with progress.output() as out:
        for game, of_game in games.items():
            out.print(pages.table(game, of_game))
        out.print(f"written to {path}", highlight=False, soft_wrap=True)
    return path


def _decision_points(game: str, cfg: config.ExperimentConfig) -> tuple[base.DecisionPoint, ...]:
    """Returns the decision points without starting JAX's backend, which training configures."""
    env_game = program.environment(cfg).game
    points = env_game.decision_points if env_game is not None else ()
    tables = [np.asarray(point.optimal) for point in points]
    if tables and all(table.ndim == 2 and np.isfinite(table).all() for table in tables):
        return points
    raise config.ConfigError(
        f"lab: {game!r} is not a game of two agents with the same number of actions whose joint "
        "values can be tabulated; choose env=matrix or env=two_step"
    )


def _measure(game: str, algo: str, run: api.Result) -> measure.GameResult:
    tables = measure.game_tables(run)
    if tables is None:
        raise config.ConfigError(
            f"lab: algorithm {algo!r} has no utilities to tabulate; leave it out of --algos"
        )
    return measure.game_result(game, algo, run, tables)
