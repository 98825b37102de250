"""Numbers that sum up runs: what sweeps compare settings by."""

import math
from collections.abc import Mapping

import numpy as np
import scipy.stats

from qmix_jax.runtime import report

_LAST = 3


def objective(
    metrics: Mapping[str, np.ndarray], name: str | None = None, last: int = _LAST
) -> float:
    """The interquartile mean over seeds of each seed's mean over its last evaluations.

    Args:
      metrics: columns as from `sinks.read_metrics`.
      name: a metric of evaluations; by default the win rate, or the return where there is none.
      last: how many evaluations; fewer if there were fewer.
    Returns:
      NaN where there are no evaluations.
    Reference: Agarwal et al. 2021 (statistical precipice), the interquartile mean.
    """
    for candidate in (name,) if name else ("eval/win_rate", "eval/return"):
        _, values = report.series(metrics, candidate)
        if values.size:
            return float(scipy.stats.trim_mean(values[:, -last:].mean(axis=1), 0.25))
    return math.nan
