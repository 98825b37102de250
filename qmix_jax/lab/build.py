"""`qmix_jax.run_lab`: every algorithm on every small game, measured against what is exact."""

import itertools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from qmix_jax import api, config, groups, program
from qmix_jax.console import progress
from qmix_jax.envs import base
from qmix_jax.lab import figures, measure, pages
from qmix_jax.runs import metadata, record

Configs = Mapping[tuple[str, str], config.ExperimentConfig]
"""(game, algorithm) -> what to train."""


class Lab(NamedTuple):
    """Attributes:
    cells: one per algorithm and game, in the order of the configurations.
    page: Markdown with tables and pictures, beside which the pictures lie.
    """

    cells: tuple[measure.GameResult, ...]
    pages: pathlib.Path


def run_lab(configs: Configs, directory: str | os.PathLike[str]) -> Lab:
    """Trains every configuration over its seeds and compares what was learnt.

    Args:
      configs: games of two agents whose joint values can be tabulated (`matrix`, `two_step`).
      directory: gets `lab.md`, a picture per game, `lab.json`, and the run directories
        in `runs`. What an earlier call has trained there is not trained again; runs that did not
        end go on from their last checkpoint.
    Returns:
      A `Lab`.
    Raises:
      ConfigError: a game without decision points or with other than two agents, a setting that
        cannot be honoured, or one that differs from an earlier call's; before anything is compiled.
    """
    points = {game: _points(game, cfg) for (game, _), cfg in configs.items()}
    root = pathlib.Path(directory)
    paths = {(game, algo): root / "runs" / f"{game}_{algo}" for game, algo in configs}
    missing = [key for key, cfg in configs.items() if not _ended(cfg, paths[key])]
    jobs = [
        api.Job(
            configs[key].model_copy(update={"resume": "auto"}),
            paths[key],
            "qmix-jax lab",
            " ".join(key),
        )
        for key in missing
    ]
    if jobs:
        api.train_many(jobs, root / "runs")
    cells = tuple(
        _cell(*key, api.load_run(paths[key]))
        for key, cfg in configs.items()
        if _ended(cfg, paths[key])
    )
    return Lab(cells, write(cells, points, root))


def _ended(cfg: config.ExperimentConfig, path: pathlib.Path) -> bool:
    """Whether a run of this configuration has come to its end there.

    Raises: ConfigError for one of another configuration.
    """
    reached = record.read_summary(path)
    if reached is None or reached["interrupted"]:
        return False
    found = metadata.read_run_config(path)
    if found == cfg:
        return True
    changed = ", ".join(groups.differing_keys(found, cfg))
    raise config.ConfigError(
        f"lab: {str(path)!r} holds a run with other settings ({changed}); give another folder"
    )


def write(
    cells: Sequence[measure.GameResult],
    points: Mapping[str, Sequence[base.DecisionPoint]],
    root: pathlib.Path,
) -> pathlib.Path:
    """Writes page, pictures and numbers, and prints the tables; the page's path."""
    root.mkdir(parents=True, exist_ok=True)
    games = {game: list(found) for game, found in itertools.groupby(cells, lambda cell: cell.game)}
    for game, found in games.items():
        (root / f"{game}.png").write_bytes(figures.tables(found, points[game]))
    numbers = [pages.plain(cell) for cell in cells]
    (root / "lab.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    path = root / "lab.md"
    path.write_text(pages.markdown(games, points), encoding="utf-8")
    console = progress.terminal()
    for game, found in games.items():
        console.print(pages.table(game, found))
    console.print(f"written to {path}", highlight=False, soft_wrap=True)
    return path


def _points(game: str, cfg: config.ExperimentConfig) -> tuple[base.DecisionPoint, ...]:
    """Decision points of a game, without starting JAX: devices are settled when training begins."""
    known = program.environment(cfg).game
    found = known.decision_points if known is not None else ()
    tables = [np.asarray(point.optimal) for point in found]
    if tables and all(table.ndim == 2 and np.isfinite(table).all() for table in tables):
        return found
    raise config.ConfigError(
        f"lab: {game!r} is not a game of two agents with equally many actions whose joint values "
        "can be tabulated; choose env=matrix or env=two_step"
    )


def _cell(game: str, algo: str, result: api.Result) -> measure.GameResult:
    learnt = measure.game_tables(result)
    if learnt is None:
        raise config.ConfigError(
            f"lab: algorithm {algo!r} shows no utilities to tabulate; leave it out of --algos"
        )
    return measure.cell(game, algo, result, learnt)
