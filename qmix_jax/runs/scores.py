"""Scores of runs, by which sweeps compare settings."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from qmix_jax import config
from qmix_jax.console import learning_curves, progress
from qmix_jax.types import EnvSpec

METRICS = tuple(f"eval/{name}" for name, _ in EnvSpec.best_metrics)
"""Default metrics to compare settings by; the first one that a run has is used."""
LAST = 3
"""Number of last evaluations that a seed's score averages."""


def ranking(
    best_metrics: Sequence[tuple[str, str]], evaluated: Collection[str]
) -> list[tuple[str, int]]:
    """Returns (name, sign) of the metrics that rank parameters, the most important one first.

    Args:
      best_metrics: `EnvSpec.best_metrics`.
      evaluated: names of the metrics of evaluations; others are dropped.
    Returns:
      `sign` is 1 to maximise and -1 to minimise; `return` if no metric is left.
    """
    ranked = [
        (name, -1 if direction == "min" else 1)
        for name, direction in best_metrics
        if name in evaluated
    ]
    return ranked or [("return", 1)]


class Objective(NamedTuple):
    """Compares settings by the interquartile mean over seeds of each seed's mean over its last
    evaluations.

    Attributes:
      metric: a column of evaluations, for example `eval/return`; None for the first of the
        environment's `EnvSpec.best_metrics`: by default the win rate, else the return.
      last: number of evaluations; all if there were fewer.
      maximise: whether larger values of `metric` are better.
    Reference: Agarwal et al. 2021 (statistical precipice), the interquartile mean.
    """

    metric: str | None = None
    last: int = LAST
    maximise: bool = True

    @property
    def caption(self) -> str:
        """A line that describes the objective."""
        metric, last = self.metric or "win rate, or return", progress.count(self.last, "evaluation")
        return f"objective: {metric}, interquartile mean over seeds of the mean of the last {last}"

    def score(self, metrics: Mapping[str, np.ndarray]) -> float:
        """Scores columns of `storage.read_metrics`; NaN without evaluations."""
        for name in (self.metric,) if self.metric else METRICS:
            _, values = learning_curves.series(metrics, name)
            if values.size:
                return float(interquartile_mean(final(values, self.last)))
        return math.nan

    def resolve(self, specs: Sequence[EnvSpec]) -> "Objective":
        """Fills in the metric and its direction, if all environments agree on the metric.

        Raises: ConfigError if they disagree even on the direction.
        """
        if self.metric is not None:
            return self
        firsts = {ranking(spec.best_metrics, spec.eval_metrics)[0] for spec in specs}
        signs = {sign for _, sign in firsts}
        if len(signs) > 1:
            names = ", ".join(sorted(name for name, _ in firsts))
            raise config.ConfigError(
                f"objective: the environments are compared by {names}, some maximised and some "
                "minimised; give a metric"
            )
        metric = f"eval/{firsts.pop()[0]}" if len(firsts) == 1 else None
        return self._replace(metric=metric, maximise=signs.pop() > 0)


def final(values: np.ndarray, last: int = LAST) -> np.ndarray:
    """Returns each seed's mean over its last evaluations, f[S].

    Args:
      values: f[S, K], a row per seed, a column per evaluation.
      last: number of evaluations; all if there were fewer.
    """
    return values[:, -last:].mean(axis=1)


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean without the lowest and the highest quarter of the values.

    Args:
      values: f[..., N]; N // 4 values are dropped at either end.
    Returns:
      f[...].
    """
    import scipy.stats  # takes half a second, so only when needed

    return scipy.stats.trim_mean(values, 0.25, axis=-1)
