"""Tracks the best parameters of each member, by its evaluations."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from qmix_jax.runs import parameters

_PREFIX = "best/"


class BestParameters:
    """Parameters of each member's best evaluation.

    Attributes:
      parameters: numpy tree [P, ...]; None before the first evaluation.
    """

    def __init__(self, n_members: int, ranking: Sequence[tuple[str, int]]) -> None:
        """`ranking`: from `scores.ranking`; each metric breaks ties of the previous ones."""
        self.parameters: Any = None
        self._ranking = ranking
        self._scores = [np.full(n_members, -np.inf) for _ in ranking]

    def update(self, results: Mapping[str, np.ndarray], current: Any) -> None:
        """Stores the current parameters of members whose evaluation is their best.

        Args:
          results: name -> f[P], including all metrics of the ranking.
          current: numpy tree [P, ...].
        """
        scores = [sign * results[name] for name, sign in self._ranking]
        better = np.zeros(len(scores[0]), bool)
        tied = ~better
        for score, best in zip(scores, self._scores, strict=True):
            better |= tied & (score > best)
            tied &= score == best
        self._scores = [
            np.where(better, score, best) for score, best in zip(scores, self._scores, strict=True)
        ]

        def choose(new: np.ndarray, old: np.ndarray) -> np.ndarray:
            return np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        best = current if self.parameters is None else self.parameters
        self.parameters = jax.tree.map(choose, current, best)

    def select(self, members: Sequence[int]) -> None:
        """Drops all members but these."""
        self._scores = [scores[np.asarray(members)] for scores in self._scores]
        self.parameters = jax.tree.map(lambda leaf: leaf[np.asarray(members)], self.parameters)

    def snapshot(self) -> tuple[list[list[float]], dict[str, np.ndarray]]:
        """Returns (scores, arrays by name)."""
        flat = parameters.flatten(self.parameters)
        return (
            [scores.tolist() for scores in self._scores],
            {f"{_PREFIX}{name}": values for name, values in flat.items()},
        )

    def restore(self, scores: list[list[float]], arrays: Mapping[str, np.ndarray]) -> None:
        """Restores a snapshot; `arrays` may contain others."""
        self._scores = [np.asarray(values) for values in scores]
        self.parameters = parameters.nest(parameters.below(_PREFIX, arrays))
