"""Numbers that sum up runs: what sweeps compare settings by."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy.stats

from qmix_jax.runtime import report

METRICS = ("eval/win_rate", "eval/return")
"""What settings are compared by: the first one that a run has."""
LAST = 3
"""How many of a seed's last evaluations its score averages."""


class Objective(NamedTuple):
    """What settings are compared by: the interquartile mean over seeds of each seed's mean over its
    last evaluations.

    Attributes:
      metric: a column of evaluations, for example `eval/return`; None for the win rate, or the
        return where there is none.
      last: how many evaluations; fewer if there were fewer.
      maximise: whether more is better.
    Reference: Agarwal et al. 2021 (statistical precipice), the interquartile mean.
    """

    metric: str | None = None
    last: int = LAST
    maximise: bool = True

    def of(self, metrics: Mapping[str, np.ndarray]) -> float:
        """The value for columns as from `sinks.read_metrics`; NaN where nothing was evaluated."""
        for candidate in (self.metric,) if self.metric else METRICS:
            _, values = report.series(metrics, candidate)
            if values.size:
                return float(scipy.stats.trim_mean(final(values, self.last), 0.25))
        return math.nan


def final(values: np.ndarray, last: int = LAST) -> np.ndarray:
    """Each seed's mean over its last evaluations.

    Args:
      values: f[S, K], a row per seed, a column per evaluation.
      last: how many evaluations; fewer if there were fewer.
    Returns:
      f[S].
    """
    return values[:, -last:].mean(axis=1)
