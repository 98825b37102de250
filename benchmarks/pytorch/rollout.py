"""Collects padded episodes; the agent acts once per step for all environments."""

from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.pytorch import learner, networks, records


class Rollout(NamedTuple):
    """One episode of every environment.

    Attributes:
      episodes: as stored.
      env_steps: simulated steps, including those of ended environments.
      valid_env_steps: steps of running environments.
      metrics: `return` and the environment's metrics, f32[B].
    """

    episodes: records.Episodes
    env_steps: int
    valid_env_steps: int
    metrics: dict[str, Tensor]


@torch.no_grad()
def collect(
    envs: records.Environments,
    agent: networks.Agent,
    epsilon: float,
    generator: torch.Generator,
) -> Rollout:
    """Runs every environment for one episode.

    Args:
      epsilon: probability of a uniform available action, per agent and step.
      generator: of exploration, on the agent's device.
    """
    spec, device = envs.spec, generator.device
    episodes = records.empty_episodes(spec, envs.n_envs, device)
    scores = _exploration(episodes.avail_actions[:-1].shape, epsilon, generator)
    prev_actions, carry = torch.full_like(episodes.actions[:1], -1), None
    timestep, t = envs.reset(), 0
    running = torch.ones(envs.n_envs, dtype=torch.bool, device=device)
    while running.any():
        _store(episodes, t, timestep)
        x = networks.features(episodes.obs[t : t + 1], prev_actions, spec.n_actions)
        q, carry = agent(x, carry)
        # Random scores replace the utilities of an agent that explores.
        q = torch.where(scores.explore[t], scores.random[t], q.view_as(scores.random[t]))
        actions = learner.greedy(q, episodes.avail_actions[t])
        timestep = envs.step(actions)
        episodes.actions[t] = actions
        episodes.reward[t] = torch.where(running, timestep.reward.to(device), 0.0)
        episodes.terminated[t] = timestep.terminated
        episodes.valid[t] = running
        running = running & ~timestep.ended.to(device)
        prev_actions, t = actions[None], t + 1
    _store(episodes, t, timestep)
    metrics = {"return": episodes.reward.sum(dim=0), **timestep.metrics}
    return Rollout(
        episodes=episodes,
        env_steps=t * envs.n_envs,
        valid_env_steps=int(episodes.valid.sum()),
        metrics={name: value.cpu().clone() for name, value in metrics.items()},
    )


class _Exploration(NamedTuple):
    """explore bool[T, B, N, 1]; random f32[T, B, N, A], scores of the actions."""

    explore: Tensor
    random: Tensor


def _exploration(shape: torch.Size, epsilon: float, generator: torch.Generator) -> _Exploration:
    """Draws for all steps at once, which takes fewer calls."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    return _Exploration(explore=uniform(*shape[:-1], 1) < epsilon, random=uniform(*shape))


def _store(episodes: records.Episodes, t: int, timestep: records.TimeStep) -> None:
    episodes.obs[t] = timestep.obs
    episodes.state[t] = timestep.state
    episodes.avail_actions[t] = timestep.avail_actions
