"""The recurrent agent and the QMIX mixer; converts their parameters from and to `qmix_jax`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.pytorch import records

Tree = dict[str, Any]
"""Parameters of the package: nested names -> NumPy arrays."""


@dataclass(frozen=True)
class Widths:
    """Sizes of the networks.

    Attributes:
      hidden: width of the agent's embedding and GRU.
      embed_dim: width of the mixing network.
      hypernet_layers: 1 (linear hypernetworks) or 2.
      hypernet_embed: hidden width of two-layer hypernetworks.
    """

    hidden: int = 64
    embed_dim: int = 32
    hypernet_layers: int = 2
    hypernet_embed: int = 64


def features(obs: Tensor, prev_actions: Tensor, n_actions: int) -> Tensor:
    """Concatenates observation, one-hot last action and agent id; folds agents into the batch.

    Args:
      obs: f32[T, B, N, O].  prev_actions: i64[T, B, N], -1 = none.  n_actions: A.
    Returns:
      f32[T, B*N, O+A+N].
    """
    t, b, n, o = obs.shape
    x = obs.new_empty(t, b, n, o + n_actions + n)
    x[..., :o] = obs
    every_action = torch.arange(n_actions, device=obs.device)
    x[..., o : o + n_actions] = prev_actions[..., None] == every_action
    x[..., o + n_actions :] = torch.eye(n, device=obs.device)
    return x.view(t, b * n, -1)


class Agent(nn.Module):
    """Linear-relu, GRU, Linear; parameters shared by all agents."""

    def __init__(self, n_inputs: int, hidden: int, n_actions: int) -> None:
        super().__init__()
        self.embed = nn.Linear(n_inputs, hidden)
        self.gru = nn.GRU(hidden, hidden)
        self.head = nn.Linear(hidden, n_actions)
        _drop_redundant_bias(self.gru)

    def forward(self, x: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(x f32[T, R, I], carry f32[1, R, H], None = zeros) -> (q f32[T, R, A], carry)."""
        hidden, carry = self.gru(torch.relu(self.embed(x)), carry)
        return self.head(hidden), carry


def _drop_redundant_bias(gru: nn.GRU) -> None:
    """Fixes the second bias of r and z at 0: it adds to the first and would double its steps."""
    bias, redundant = gru.bias_hh_l0, 2 * gru.hidden_size

    def zeroed(grad: Tensor) -> Tensor:
        grad = grad.clone()
        grad[:redundant] = 0.0
        return grad

    with torch.no_grad():
        bias[:redundant] = 0.0
    bias.register_hook(zeroed)


class Hypernetwork(nn.Module):
    """One linear layer, or Linear-relu-Linear."""

    def __init__(self, state_size: int, n_outputs: int, layers: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(state_size, hidden) if layers == 2 else None
        self.output = nn.Linear(hidden if layers == 2 else state_size, n_outputs)

    def forward(self, state: Tensor) -> Tensor:
        """state f32[..., S] -> f32[..., n_outputs]."""
        x = state if self.hidden is None else torch.relu(self.hidden(state))
        return self.output(x)


class Mixer(nn.Module):
    """q_tot = elu(q @ |W1(s)| + b1(s)) . |w2(s)| + V(s)."""

    def __init__(self, n_agents: int, state_size: int, widths: Widths) -> None:
        super().__init__()
        embed, layers, hidden = widths.embed_dim, widths.hypernet_layers, widths.hypernet_embed
        self.w1 = Hypernetwork(state_size, n_agents * embed, layers, hidden)
        self.b1 = nn.Linear(state_size, embed)
        self.w2 = Hypernetwork(state_size, embed, layers, hidden)
        self.v = Hypernetwork(state_size, 1, 2, embed)

    def forward(self, q: Tensor, state: Tensor) -> Tensor:
        """(q f32[..., N], state f32[..., S]) -> q_tot f32[...]."""
        b1 = self.b1(state)
        w1 = self.w1(state).abs().view(*q.shape, b1.shape[-1])
        hidden = nn.functional.elu((q[..., None] * w1).sum(dim=-2) + b1)
        return (hidden * self.w2(state).abs()).sum(dim=-1) + self.v(state)[..., 0]


class QMIX(nn.Module):
    """Agent and mixer, with PyTorch's default initialisation, as in the package."""

    def __init__(self, spec: records.Spec, widths: Widths) -> None:
        super().__init__()
        n_inputs = spec.obs_size + spec.n_actions + spec.n_agents
        self.spec = spec
        self.agent = Agent(n_inputs, widths.hidden, spec.n_actions)
        self.mixer = Mixer(spec.n_agents, spec.state_size, widths)


def from_jax(params: Tree) -> QMIX:
    """Returns networks equal to the package's GRU agent and QMIX mixer.

    Args:
      params: `{"agent": ..., "mixer": ...}`, nested names -> arrays, which determine the sizes. The
        agent's inputs include last action and agent id; mixing weights are absolute values.
    """
    agent, mixer = params["agent"], params["mixer"]
    n_inputs, hidden = agent["embed"]["kernel"].shape
    n_actions = agent["head"]["kernel"].shape[1]
    state_size, embed_dim = mixer["b1"]["kernel"].shape
    n_agents = mixer["w1"]["output"]["kernel"].shape[1] // embed_dim
    layers = len(mixer["w1"])
    spec = records.Spec(
        n_agents=n_agents,
        n_actions=n_actions,
        obs_size=n_inputs - n_actions - n_agents,
        state_size=state_size,
        max_steps=0,
    )
    inner = mixer["w1"]["hidden"]["kernel"].shape[1] if layers == 2 else embed_dim
    networks = QMIX(spec, Widths(hidden, embed_dim, layers, inner))
    with torch.no_grad():
        for name, module in networks.named_modules():
            _load(module, _node(params, name))
    return networks


def to_jax(networks: QMIX, read: Callable[[nn.Parameter], Tensor | None]) -> Tree:
    """Returns the package's tree of `read(parameter)`, for example the gradients."""
    tree: Tree = {}
    for name, module in networks.named_modules():
        _node(tree, name).update(_arrays(module, lambda p: read(p).detach().cpu().numpy()))
    return tree


def _node(tree: Tree, name: str) -> Tree:
    for part in filter(None, name.split(".")):
        tree = tree.setdefault(part, {})
    return tree


def _load(module: nn.Module, values: Tree) -> None:
    tensors = {
        name: torch.tensor(np.asarray(value))
        for name, value in values.items()
        if not isinstance(value, dict)
    }
    if isinstance(module, nn.Linear):
        module.weight.copy_(tensors["kernel"].T)
        module.bias.copy_(tensors["bias"])
    elif isinstance(module, nn.GRU):
        module.weight_ih_l0.copy_(tensors["input_kernel"].T)
        module.weight_hh_l0.copy_(tensors["recurrent_kernel"].T)
        module.bias_ih_l0.copy_(tensors["bias"])
        module.bias_hh_l0[2 * module.hidden_size :] = tensors["candidate_bias"]


def _arrays(module: nn.Module, read: Callable[[nn.Parameter], np.ndarray]) -> Tree:
    if isinstance(module, nn.Linear):
        return {"kernel": read(module.weight).T, "bias": read(module.bias)}
    if isinstance(module, nn.GRU):
        return {
            "input_kernel": read(module.weight_ih_l0).T,
            "recurrent_kernel": read(module.weight_hh_l0).T,
            "bias": read(module.bias_ih_l0),
            "candidate_bias": read(module.bias_hh_l0)[2 * module.hidden_size :],
        }
    return {}
