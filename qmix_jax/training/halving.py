"""Successive halving: at each rung the better settings continue, in a smaller population.

Reference: Jamieson & Talwalkar 2016, Algorithm 1. Deviation: the caller chooses the rungs and the
share of settings to keep, and all settings that train together are compared.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

_Key = TypeVar("_Key")


class Halving(NamedTuple):
    """Options of successive halving.

    Attributes:
      rungs: ascending fractions of a run, each above 0 and below 1.
      keep: share of the settings that continue after each rung, above 0 and below 1; at least one
        continues.
    """

    rungs: tuple[float, ...]
    keep: float = 0.5

    def survivors(self, n_settings: int) -> int:
        """Number of settings, out of `n_settings`, that continue."""
        return max(1, math.ceil(self.keep * n_settings))


def ranked(scores: Mapping[_Key, float], maximise: bool) -> list[_Key]:
    """Returns the keys from the best score to the worst, NaN last."""
    sign = -1 if maximise else 1
    return sorted(scores, key=lambda key: (math.isnan(scores[key]), sign * scores[key]))
