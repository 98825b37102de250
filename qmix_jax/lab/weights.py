"""`qmix_jax.weights`: a mixer's attention and importance weights over an episode, as a picture."""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import figure as mpl_figure

from qmix_jax import config, program
from qmix_jax.lab import episode
from qmix_jax.runs import metadata, parameters, storage

_PREFIX = "mixer/"
"""Prefix of a mixer's weights in `Algorithm.inspect`."""
_WIDTH, _ROW = 10.0, 0.28
"""Width of the picture and height of a heat map's row, in inches."""


def weights(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    member: int = 0,
    seed: int = 0,
) -> pathlib.Path:
    """Plays one greedy episode with the best policy of a run and draws its mixer's weights.

    Args:
      directory: a run directory whose mixer has weights (`qatten`, `qplex`, ...).
      out: the PNG file; by default `weights.png` in the run directory.
      member: index of the member that plays.
      seed: of the episode.
    Returns:
      The path of the picture.
    Raises:
      ConfigError: not a run directory, no such member, or a mixer without weights.
    """
    root = pathlib.Path(directory)
    cfg = metadata.read_run_config(root)
    params = parameters.load_parameters(root / "parameters_best.npz")
    values = episode.inspect_episode(cfg, params, member, seed)
    info = {name.removeprefix(_PREFIX): x for name, x in values.items() if name.startswith(_PREFIX)}
    if not info:
        raise config.ConfigError(
            f"weights: algorithm {cfg.algo.name!r} has no weights to draw; allowed: mixers qatten, "
            "qplex and qplex_attention"
        )
    # Constant arrays are left out: a greedy episode has no advantages, for example.
    varying = {name: x for name, x in info.items() if np.ptp(x) > 0.0} or info
    spec, returned = program.environment(cfg).spec, np.sum(values["reward"])
    title = f"{cfg.algo.name} on {spec.name}: one greedy episode, return {returned:.2f}"
    path = pathlib.Path(out or root / "weights.png")
    with storage.atomic(path) as file:
        draw(varying, spec.agent_names, title).savefig(file, format="png", dpi=130)
    return path


def draw(arrays: Mapping[str, np.ndarray], agents: Sequence[str], title: str) -> mpl_figure.Figure:
    """Draws a heat map per array: time on x, a row per agent and, for `[T, heads, N]`, per head.

    Args:
      arrays: name -> f[T, N] or f[T, heads, N].
      agents: N names.
    """
    rows = {name: _rows(values, agents) for name, values in arrays.items()}
    heights = [len(labels) * _ROW + 0.5 for labels, _ in rows.values()]
    figure = mpl_figure.Figure(figsize=(_WIDTH, sum(heights) + 0.6), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for panel, (name, (labels, table)) in zip(panels, rows.items(), strict=True):
        image = panel.imshow(table, aspect="auto", interpolation="nearest", cmap="cividis")
        panel.set_title(name, fontsize=9, loc="left", pad=3)
        panel.set_yticks(range(len(labels)), labels, fontsize=7)
        panel.tick_params(axis="x", labelsize=7)
        figure.colorbar(image, ax=panel, pad=0.01).ax.tick_params(labelsize=7)
    panels[-1].set_xlabel("env step")
    return figure


def _rows(values: np.ndarray, agents: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Returns labels, and values f[rows, T]."""
    if values.ndim == 2:
        return list(agents), values.T
    labels = [f"head {h + 1}, {agent}" for h in range(values.shape[1]) for agent in agents]
    return labels, values.reshape(len(values), -1).T
