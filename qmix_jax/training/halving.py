"""Successive halving: at each rung the better settings train on, in a smaller population.

Reference: Jamieson & Talwalkar 2016, Algorithm 1. Deviation: the best `keep` of all settings that
train together go on, whatever `keep` is, and the rungs are the caller's.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

_Key = TypeVar("_Key")


class Halving(NamedTuple):
    """Attributes:
    rungs: rising fractions of a run, each above 0 and below 1.
    keep: share of the settings that train on after each rung, above 0 and below 1; at least one.
    """

    rungs: tuple[float, ...]
    keep: float = 0.5

    def survivors(self, n_settings: int) -> int:
        """Of so many, how many train on."""
        return max(1, math.ceil(self.keep * n_settings))


def ranked(scores: Mapping[_Key, float], maximise: bool) -> list[_Key]:
    """Keys by their scores, the best first; NaN is last."""
    sign = -1 if maximise else 1
    return sorted(scores, key=lambda key: (math.isnan(scores[key]), sign * scores[key]))
