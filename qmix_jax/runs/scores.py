"""Numbers that sum up runs: what sweeps compare settings by."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from qmix_jax import config
from qmix_jax.console import learning_curves, progress
from qmix_jax.types import EnvSpec

METRICS = tuple(f"eval/{name}" for name, _ in EnvSpec.best_metrics)
"""What settings are compared by where the environment does not say otherwise: the first one that a
run has.
"""
LAST = 3
"""How many of a seed's last evaluations its score averages."""


def order(
    best_metrics: Sequence[tuple[str, str]], present: Collection[str]
) -> list[tuple[str, int]]:
    """(name, 1 where more is better, else -1) of those of an environment's best metrics that
    evaluations have, the most important one first; `return` if they have none.
    """
    found = [(name, -1 if way == "min" else 1) for name, way in best_metrics if name in present]
    return found or [("return", 1)]


class Objective(NamedTuple):
    """What settings are compared by: the interquartile mean over seeds of each seed's mean over its
    last evaluations.

    Attributes:
      metric: a column of evaluations, for example `eval/return`; None for the first of the
        environment's best metrics (`EnvSpec.best_metrics`): by default the win rate, or the return
        where there is none.
      last: how many evaluations; fewer if there were fewer.
      maximise: whether more is better, of a metric that is given.
    Reference: Agarwal et al. 2021 (statistical precipice), the interquartile mean.
    """

    metric: str | None = None
    last: int = LAST
    maximise: bool = True

    @property
    def caption(self) -> str:
        """In words."""
        metric, last = self.metric or "win rate, or return", progress.count(self.last, "evaluation")
        return f"objective: {metric}, interquartile mean over seeds of the mean of the last {last}"

    def of(self, metrics: Mapping[str, np.ndarray]) -> float:
        """The value for columns as from `storage.read_metrics`; NaN where nothing was evaluated."""
        for candidate in (self.metric,) if self.metric else METRICS:
            _, values = learning_curves.series(metrics, candidate)
            if values.size:
                return float(interquartile_mean(final(values, self.last)))
        return math.nan

    def on(self, specs: Sequence[EnvSpec]) -> "Objective":
        """The same with a metric, where all of these environments have the same first one.

        Raises: ConfigError where they have not, and not even the same direction.
        """
        if self.metric is not None:
            return self
        firsts = {order(spec.best_metrics, spec.eval_metrics)[0] for spec in specs}
        signs = {sign for _, sign in firsts}
        if len(signs) > 1:
            names = ", ".join(sorted(name for name, _ in firsts))
            raise config.ConfigError(
                f"objective: the environments are compared by {names}, of which some are to be "
                "large and some small; give a metric"
            )
        metric = f"eval/{firsts.pop()[0]}" if len(firsts) == 1 else None
        return self._replace(metric=metric, maximise=signs.pop() > 0)


def final(values: np.ndarray, last: int = LAST) -> np.ndarray:
    """Each seed's mean over its last evaluations.

    Args:
      values: f[S, K], a row per seed, a column per evaluation.
      last: how many evaluations; fewer if there were fewer.
    Returns:
      f[S].
    """
    return values[:, -last:].mean(axis=1)


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean without the lowest and the highest quarter of the values.

    Args:
      values: f[..., N]; N // 4 values are dropped at either end.
    Returns:
      f[...].
    """
    import scipy.stats  # half a second, which most commands need not wait for

    return scipy.stats.trim_mean(values, 0.25, axis=-1)
