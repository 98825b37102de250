"""Memory of one member: its state, exact from shapes, and the temporaries of its programs."""

from typing import Any, NamedTuple

import jax

from qmix_jax import train_step


class MemoryEstimate(NamedTuple):
    """Bytes of one member.

    Attributes:
      parts: part of the state -> bytes.
      temporaries: bytes that the largest program allocates while it runs.
      copies: bytes that a checkpoint duplicates in device memory.
    """

    parts: dict[str, int]
    temporaries: int
    copies: int = 0

    @property
    def persistent(self) -> int:
        """Bytes of the state."""
        return sum(self.parts.values())

    def fit(self, limit: int, running: int | None) -> int:
        """Returns how many members fit into `limit` bytes if `running` of them, or all for None,
        run at a time.
        """
        stored = self.persistent + self.copies
        if running is None:
            return limit // (stored + self.temporaries)
        return max(0, (limit - running * self.temporaries) // stored)


def parts(state: train_step.TrainState, n_members: int = 1) -> dict[str, int]:
    """Returns the bytes per member of a state of `n_members`, or of its shapes."""
    learner = state.learner
    trees = {
        "replay": state.replay,
        "parameters": learner.params,
        "target parameters": learner.target_params,
        "optimiser": learner.opt_state,
        "environments": state.actor,
        "rest": (state.key, state.active),
    }
    return {name: tree_bytes(tree) // n_members for name, tree in trees.items()}


def tree_bytes(tree: Any) -> int:
    """Returns the bytes of all arrays, or shapes, of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
