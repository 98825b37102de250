"""The best parameters of each member so far, by its evaluations."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from qmix_jax.runs import parameters

_PREFIX = "best/"


class BestParameters:
    """Attributes:
    parameters: numpy tree [P, ...], None before the first evaluation.
    """

    def __init__(self, n_members: int, order: Sequence[tuple[str, int]]) -> None:
        """Nothing is best yet; `order` as from `scores.order`: ties are broken by the next one."""
        self.parameters: Any = None
        self._order = order
        self._scores = [np.full(n_members, -np.inf) for _ in order]

    def see(self, results: Mapping[str, np.ndarray], current: Any) -> None:
        """Keeps the current parameters of the members whose evaluation is their best.

        Args:
          results: name -> f[P], with all of the order's names.
          current: numpy tree [P, ...].
        """
        scores = [sign * results[name] for name, sign in self._order]
        better = np.zeros(len(scores[0]), bool)
        tied = ~better
        for score, best in zip(scores, self._scores, strict=True):
            better |= tied & (score > best)
            tied &= score == best
        self._scores = [
            np.where(better, score, best) for score, best in zip(scores, self._scores, strict=True)
        ]
        first = self.parameters is None
        self.parameters = current if first else _choose(better, current, self.parameters)

    def narrow(self, keep: Sequence[int]) -> None:
        """Goes on with these members only."""
        chosen = np.asarray(keep)
        self._scores = [scores[chosen] for scores in self._scores]
        self.parameters = jax.tree.map(lambda leaf: leaf[chosen], self.parameters)

    def snapshot(self) -> tuple[list[list[float]], dict[str, np.ndarray]]:
        """(scores, arrays by name)."""
        flat = parameters.flatten(self.parameters)
        return (
            [scores.tolist() for scores in self._scores],
            {f"{_PREFIX}{name}": values for name, values in flat.items()},
        )

    def restore(self, scores: list[list[float]], arrays: Mapping[str, np.ndarray]) -> None:
        """What `snapshot` gave, among other arrays."""
        self._scores = [np.asarray(values) for values in scores]
        self.parameters = parameters.nest(parameters.below(_PREFIX, arrays))


def _choose(better: np.ndarray, current: Any, best: Any) -> Any:
    def pick(new: np.ndarray, old: np.ndarray) -> np.ndarray:
        return np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(pick, current, best)
