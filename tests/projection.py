"""What a joint value of tabular utilities becomes on a one-step game under uniform exploration.

Full-batch gradient descent over all joint actions with equal weight: uniformly random play with
infinitely much data. Utilities start near zero, as a network's do.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qmix_jax.envs import matrix
from qmix_jax.mixers import base


class Fit(NamedTuple):
    """Learned tables f32[P, A, A], the game's payoff [A, A] and its additive fit [A, A]."""

    tables: np.ndarray
    payoff: np.ndarray
    additive: np.ndarray

    @property
    def squared_error(self) -> np.ndarray:
        """[P], the sum over joint actions."""
        return np.square(self.tables - self.payoff).sum(axis=(1, 2))

    @property
    def greedy_payoff(self) -> np.ndarray:
        """[P], payoff of the joint action that is valued most."""
        return self.payoff.ravel()[self.tables.reshape(len(self.tables), -1).argmax(axis=1)]


def game(name: str) -> Any:
    """The environment."""
    return matrix.make(matrix.Config(game=name))


def fit(name: str, init: Any, apply: Any, learning_rate: float, steps: int, seeds: int) -> Fit:
    """Fits the game's payoff from `seeds` starting points.

    Args:
      name: a game for two agents with equally many actions.
      init: `(key) -> params` of the joint value.
      apply: `(params, MixerInputs[A * A]) -> MixerOutput[A * A]`.
      learning_rate: of Adam, decayed to zero.
    """
    (point,) = game(name).game.decision_points
    n = len(point.optimal)
    joint = np.indices((n, n)).reshape(2, -1).T
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def output(params: Any) -> base.MixerOutput:
        q = params["q"]
        return apply(
            params["joint"],
            base.MixerInputs(
                q_taken=q[np.arange(2), joint],
                q_greedy=jnp.broadcast_to(q.max(axis=-1), joint.shape),
                actions=jax.nn.one_hot(joint, n),
                state=jnp.ones((len(joint), point.state.size)),
            ),
        )

    def loss(params: Any) -> jax.Array:
        out = output(params)
        return jnp.mean(jnp.square(out.q_tot - point.optimal.ravel()) + out.penalty)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        updates, state = optimiser.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    def learn(key: jax.Array) -> jax.Array:
        key_q, key_joint = jax.random.split(key)
        params = {"q": 0.01 * jax.random.normal(key_q, (2, n)), "joint": init(key_joint)}
        (params, _), _ = jax.lax.scan(step, (params, optimiser.init(params)), length=steps)
        return output(params).q_tot.reshape(n, n)

    quick = {"xla_backend_optimization_level": 0}  # compiling is all the time there is
    tables = jax.jit(jax.vmap(learn), compiler_options=quick)(
        jax.random.split(jax.random.key(0), seeds)
    )
    return Fit(np.asarray(tables), point.optimal, point.exact["additive"])
