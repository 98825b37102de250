"""Shared records. Axes as in `qmix_jax`: T time, B episodes, N agents, A actions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spec:
    """Sizes of an environment.

    Attributes:
      n_agents, n_actions, obs_size, state_size: N, A, O, S.
      max_steps: the longest possible episode.
    """

    n_agents: int
    n_actions: int
    obs_size: int
    state_size: int
    max_steps: int


class TimeStep(NamedTuple):
    """Output of B environments; the next step may overwrite the tensors.

    Attributes:
      obs: f32[B, N, O].  state: f32[B, S].
      avail_actions: bool[B, N, A], at least one True per agent.
      reward: f32[B], raw team reward of the last action.
      terminated: bool[B], the last action ended the episode.
      truncated: bool[B], the last action reached the time limit and did not terminate.
      metrics: name -> f32[B]; the value at an episode's last step counts for the episode.
    """

    obs: Tensor
    state: Tensor
    avail_actions: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    metrics: dict[str, Tensor]

    @property
    def ended(self) -> Tensor:
        """bool[B], the episode is over."""
        return self.terminated | self.truncated


class Environments(NamedTuple):
    """A batch of environments.

    Attributes:
      spec: sizes.
      n_envs: B.
      reset: `() -> TimeStep`, starts an episode in every environment.
      step: `(actions i64[B, N]) -> TimeStep`; ended environments do not change.
      close: `() -> None`, frees processes.
    """

    spec: Spec
    n_envs: int
    reset: Callable[[], TimeStep]
    step: Callable[[Tensor], TimeStep]
    close: Callable[[], None]


@dataclass(frozen=True)
class Episodes:
    """Padded episodes, one per column.

    Attributes:
      obs: f32[T+1, B, N, O].
      state: f32[T+1, B, S].
      avail_actions: bool[T+1, B, N, A].
      actions: i64[T, B, N].
      reward: f32[T, B], raw.
      terminated: bool[T, B], the action at t ended the episode (time limits excluded).
      valid: bool[T, B], step t is part of the episode, not padding.
    """

    obs: Tensor
    state: Tensor
    avail_actions: Tensor
    actions: Tensor
    reward: Tensor
    terminated: Tensor
    valid: Tensor


def empty_episodes(spec: Spec, n_episodes: int, device: torch.device) -> Episodes:
    """Returns zeros for episodes of up to `max_steps`."""
    t, b, n = spec.max_steps, n_episodes, spec.n_agents

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    return Episodes(
        obs=zeros(t + 1, b, n, spec.obs_size),
        state=zeros(t + 1, b, spec.state_size),
        avail_actions=zeros(t + 1, b, n, spec.n_actions, dtype=torch.bool),
        actions=zeros(t, b, n, dtype=torch.int64),
        reward=zeros(t, b),
        terminated=zeros(t, b, dtype=torch.bool),
        valid=zeros(t, b, dtype=torch.bool),
    )
