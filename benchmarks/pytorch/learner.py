"""Double-Q temporal differences of the joint value over padded episodes.

    y_t = r_t + gamma * (1 - terminated_t) * f^-(q^-(tau_{t+1}, argmax_a q(tau_{t+1}, a)), s_{t+1})

With `td_lambda` > 0 the target is Peng's Q(lambda). Values bootstrap through time limits; the loss
is a mean over valid steps without a factor 1/2.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmarks.pytorch import networks, records


@dataclass(frozen=True)
class Config:
    """Options of the learner.

    Attributes:
      optimiser: `rmsprop` (decay 0.99) or `adam` (0.9, 0.999); `eps` is added to the root.
      learning_rate: constant.
      max_grad_norm: joint global-norm clip of all parameters.
      gamma, td_lambda, reward_scale: of the target; rewards are scaled nowhere else.
      target_period: gradient steps between updates of the target networks.
      double_q: select the next action with the online network.
    """

    optimiser: Literal["rmsprop", "adam"] = "rmsprop"
    learning_rate: float = 5e-4
    eps: float = 1e-5
    max_grad_norm: float = 10.0
    gamma: float = 0.99
    td_lambda: float = 0.0
    reward_scale: float = 1.0
    target_period: int = 200
    double_q: bool = True


class Learner:
    """Online and target networks and the optimiser.

    Attributes:
      online, target: the networks.
      gradient_steps: taken so far.
    """

    def __init__(self, online: networks.QMIX, cfg: Config) -> None:
        self.online = online
        self.target = copy.deepcopy(online).requires_grad_(False)
        self.gradient_steps = 0
        self._cfg = cfg
        self._parameters = list(online.parameters())
        self._optimiser = _optimiser(self._parameters, cfg)

    def update(self, episodes: records.Episodes) -> Tensor:
        """Takes a gradient step and returns the loss f32[]."""
        loss = td_loss(self.online, self.target, episodes, self._cfg)
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, self._cfg.max_grad_norm)
        self._optimiser.step()
        self.gradient_steps += 1
        if self.gradient_steps % self._cfg.target_period == 0:
            self.target.load_state_dict(self.online.state_dict())
        return loss.detach()


def _optimiser(parameters: list[torch.nn.Parameter], cfg: Config) -> torch.optim.Optimizer:
    """Returns the fastest implementation of the optimiser."""
    rate, eps = cfg.learning_rate, cfg.eps
    if cfg.optimiser == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=rate, alpha=0.99, eps=eps, foreach=True)
    return torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.999), eps=eps, fused=True)


def td_loss(
    online: networks.QMIX, target: networks.QMIX, episodes: records.Episodes, cfg: Config
) -> Tensor:
    """Mean squared error of the joint value over the valid steps.

    Args:
      online: the networks that receive the gradient.
      target: evaluates successors, without gradient.
      episodes: T steps of B episodes.
      cfg: discount, lambda, reward scale, double Q.
    Returns:
      f32[].
    """
    t, b, n = episodes.actions.shape
    none = torch.full_like(episodes.actions[:1], -1)
    prev_actions = torch.cat([none, episodes.actions])
    x = networks.features(episodes.obs, prev_actions, online.spec.n_actions)
    q = online.agent(x)[0].view(t + 1, b, n, -1)
    q_taken = _take(q[:-1], episodes.actions)
    q_tot = online.mixer(q_taken, episodes.state[:-1])
    with torch.no_grad():
        q_target = target.agent(x)[0].view(t + 1, b, n, -1)
        selecting = q if cfg.double_q else q_target
        next_actions = greedy(selecting[1:], episodes.avail_actions[1:])
        value_next = target.mixer(_take(q_target[1:], next_actions), episodes.state[1:])
        y = targets(episodes, value_next, cfg)
    # Masked before the square: a non-finite error of padding must not reach the gradient.
    error = torch.where(episodes.valid, q_tot - y, 0.0)
    return error.square().sum() / episodes.valid.sum().clamp(min=1)


def greedy(q: Tensor, avail_actions: Tensor) -> Tensor:
    """Returns the best available actions: q f32[..., A], avail_actions bool[..., A] -> i64[...]."""
    return q.masked_fill(~avail_actions, -torch.inf).argmax(dim=-1)


def targets(episodes: records.Episodes, value_next: Tensor, cfg: Config) -> Tensor:
    """Peng's Q(lambda) targets; one-step at lambda 0 and at an episode's last valid step.

        G_t = r_t + gamma * (1 - terminated_t) * ((1 - l_t) * V_{t+1} + l_t * G_{t+1})
        l_t = td_lambda where step t+1 is valid, else 0

    Args:
      episodes: T steps of B episodes.
      value_next: f32[T, B], value of the successor.
      cfg: discount, lambda, reward scale.
    Returns:
      f32[T, B].
    """
    discount = torch.where(episodes.terminated, 0.0, cfg.gamma)
    reward = cfg.reward_scale * episodes.reward
    one_step = reward + discount * value_next
    if cfg.td_lambda == 0.0:
        return one_step
    share = torch.zeros_like(discount)
    share[:-1] = torch.where(episodes.valid[1:], cfg.td_lambda, 0.0)
    # Padding is dropped with `where`: a product with 0 would preserve NaN.
    fixed = torch.where(episodes.valid, reward + discount * (1.0 - share) * value_next, 0.0)
    following = discount * share
    result = torch.empty_like(fixed)
    result[-1] = fixed[-1]
    for t in reversed(range(len(fixed) - 1)):
        torch.addcmul(fixed[t], following[t], result[t + 1], out=result[t])
    return result


def _take(q: Tensor, actions: Tensor) -> Tensor:
    """Returns the utility of one action per row: f32[..., A], i64[...] -> f32[...]."""
    return q.gather(-1, actions[..., None])[..., 0]
