"""A ring of padded episodes in preallocated tensors."""

from dataclasses import fields

import torch

from benchmarks.pytorch import records


class Replay:
    """Uniform episode replay, sampled with replacement.

    Attributes:
      n_added: episodes added so far.
    """

    def __init__(self, spec: records.Spec, capacity: int, device: torch.device) -> None:
        self.n_added = 0
        self._capacity = capacity
        self._ring = records.empty_episodes(spec, capacity, device)
        self._length = torch.zeros(capacity, dtype=torch.int64)

    def add(self, episodes: records.Episodes) -> None:
        """Overwrites the oldest episodes; the number of new ones must divide the capacity."""
        n_new = episodes.reward.shape[1]
        columns = slice(self.n_added % self._capacity, self.n_added % self._capacity + n_new)
        for field in fields(episodes):
            getattr(self._ring, field.name)[:, columns] = getattr(episodes, field.name)
        self._length[columns] = episodes.valid.sum(dim=0).cpu()
        self.n_added += n_new

    def sample(self, batch_size: int, generator: torch.Generator) -> records.Episodes:
        """Returns a minibatch, cut to its longest episode.

        Args:
          batch_size: B.
          generator: on the CPU.
        """
        n_stored = min(self.n_added, self._capacity)
        index = torch.randint(n_stored, (batch_size,), generator=generator)
        longest = int(self._length[index].max())
        index = index.to(self._ring.reward.device)

        def gather(name: str, n_entries: int) -> torch.Tensor:
            return getattr(self._ring, name)[:n_entries].index_select(1, index)

        with_successor = ("obs", "state", "avail_actions")
        return records.Episodes(
            **{
                field.name: gather(field.name, longest + (field.name in with_successor))
                for field in fields(self._ring)
            }
        )
