"""Values of all actions of each agent, given the actions of the others.

    Q_i(s, (., u_-i)) = MLP([s, 1h(i), sum_j hidden_encoder(h_j), sum_{j != i} encoder(u_j)])

Agent i's action is not an input, so its A outputs are counterfactual.

Reference: Son et al. 2019 (QTRAN-alt), the network as in the common PyTorch code. Deviation: none.
"""

import jax.numpy as jnp
from flax import linen as nn

from qmix_jax.critics import base
from qmix_jax.nn import mlp
from qmix_jax.types import Array, EnvSpec


class _CounterfactualNetwork(nn.Module):
    hidden: int
    layers: int

    @nn.compact
    def __call__(self, inputs: base.CriticInputs) -> Array:
        *leading, n_agents, n_actions = inputs.actions.shape
        width = inputs.hidden.shape[-1]

        def per_agent(x: Array) -> Array:
            return jnp.broadcast_to(x, (*leading, n_agents, x.shape[-1]))

        encoded = mlp.MLP(n_actions, n_actions, 1, name="action_encoder")(inputs.actions)
        others = jnp.sum(encoded, axis=-2, keepdims=True) - encoded
        hidden = mlp.MLP(width, width, 1, name="hidden_encoder")(inputs.hidden)
        summed = jnp.sum(hidden, axis=-2, keepdims=True)
        ids = jnp.expand_dims(jnp.eye(n_agents), range(len(leading)))
        state = per_agent(inputs.state[..., None, :])
        parts = [state, per_agent(ids), per_agent(summed), others]
        network = mlp.MLP(n_actions, self.hidden, self.layers, name="q")
        return network(jnp.concatenate(parts, axis=-1))


def make(spec: EnvSpec, agent_hidden: int, hidden: int, layers: int) -> base.Critic:
    """Makes the critic, f32[..., N, A], which uses `state`, `hidden` and `actions`.

    Args:
      agent_hidden: H, width of the agents' hidden states.
      hidden, layers: width and number of the hidden layers.
    """
    return base.from_module(_CounterfactualNetwork(hidden, layers), spec, agent_hidden)
