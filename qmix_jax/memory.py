"""Bytes that a member takes: what it keeps, exact from shapes, and what its programs add."""

from typing import Any, NamedTuple

import jax

from qmix_jax import train_step


class MemoryEstimate(NamedTuple):
    """Attributes:
    parts: what a member keeps -> bytes.
    temporaries: bytes that the largest program adds while it runs, for one member.
    copies: bytes of a member that a checkpoint holds twice, where that takes the devices' memory.
    """

    parts: dict[str, int]
    temporaries: int
    copies: int = 0

    @property
    def kept(self) -> int:
        """Bytes that a member keeps."""
        return sum(self.parts.values())

    def fit(self, limit: int, running: int | None) -> int:
        """Members that fit into `limit` bytes, of which `running` run at a time; None for all."""
        twice = self.kept + self.copies
        if running is None:
            return limit // (twice + self.temporaries)
        return max(0, (limit - running * self.temporaries) // twice)


def parts(state: train_step.TrainState, n_members: int = 1) -> dict[str, int]:
    """Bytes per member of a state, or of its shapes, of `n_members`."""
    learner = state.learner
    named = {
        "replay": state.replay,
        "parameters": learner.params,
        "target parameters": learner.target_params,
        "optimiser": learner.opt_state,
        "environments": state.actor,
        "rest": (state.key, state.active),
    }
    return {name: tree_bytes(tree) // n_members for name, tree in named.items()}


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays, or shapes, of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
