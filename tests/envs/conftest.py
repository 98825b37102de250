"""Episodes of many copies of one environment."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest


class Episodes(NamedTuple):
    """NumPy arrays: `first` of `reset`, [E, ...]; the others of every step, [E, T, ...].

    `happened` bool[E, T] is False for steps after the end of an episode.
    """

    first: Any
    steps: Any
    env_states: Any
    happened: np.ndarray

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum over each episode, [E]."""
        return np.where(self.happened, values, 0).sum(axis=1)

    def final(self, values: np.ndarray) -> np.ndarray:
        """The value at each episode's last step, [E, ...]."""
        return values[np.arange(len(values)), self.happened.sum(axis=1) - 1]


def play_episodes(env, policies, n_episodes=4, n_steps=None) -> Episodes:
    """Plays `n_episodes` with each policy, `(key, TimeStep) -> actions i32[N]`, in one program."""

    def episode(key, policy_index):
        reset_key, scan_key = jax.random.split(key)
        env_state, first = env.reset(reset_key)

        def step(carry, key):
            env_state, timestep, ended = carry
            act_key, env_key = jax.random.split(key)
            actions = jnp.stack([policy(act_key, timestep) for policy in policies])[policy_index]
            env_state, timestep = env.step(env_key, env_state, actions)
            carry = (env_state, timestep, ended | timestep.terminated | timestep.truncated)
            return carry, (timestep, env_state, ~ended)

        keys = jax.random.split(scan_key, n_steps or env.spec.max_steps)
        _, steps = jax.lax.scan(step, (env_state, first, jnp.zeros((), bool)), keys)
        return first, *steps

    index = np.repeat(np.arange(len(policies)), n_episodes)
    keys = jax.random.split(jax.random.key(0), index.size)
    return Episodes(*jax.tree.map(np.asarray, jax.jit(jax.vmap(episode))(keys, index)))


def random_play(key, timestep):
    """Uniform over the available actions."""
    logits = jnp.where(timestep.avail_actions, 0.0, -jnp.inf)
    return jax.random.categorical(key, logits).astype(jnp.int32)


@pytest.fixture(scope="session")
def play():
    return play_episodes


@pytest.fixture(scope="session")
def random_policy():
    return random_play
