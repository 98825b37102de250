"""Random play: many environments in one compiled program, or one on the host.

As in training, a new episode follows each that ends.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.envs import base as envs
from qmix_jax.types import Array, Box, EnvSpec, TimeStep

_MAX_STEPS = 8_192
"""Limit on the total steps of all environments, of which at least two are played."""


class Playthrough(NamedTuple):
    """Transitions in NumPy arrays `[E, T, ...]`, from `timesteps` to `next_timesteps`.

    Attributes:
      reset_keys, step_keys: typed keys (JAX arrays) of every step; None for play on the host.
      reset: bool, the step starts an episode; `timesteps` is the output of `reset`.
      env_states, timesteps: before the step.
      actions: available actions, i32[E, T, N] or f32[E, T, N, D].
      next_env_states, next_timesteps: after the step, before any reset.
      timed_out: bool, the episode was cut because it had not ended after `max_steps` steps.
    """

    reset_keys: Any
    step_keys: Any
    reset: np.ndarray
    env_states: Any
    timesteps: TimeStep
    actions: np.ndarray
    next_env_states: Any
    next_timesteps: TimeStep
    timed_out: np.ndarray

    @property
    def ended(self) -> np.ndarray:
        """bool[E, T], the step ended its episode."""
        return np.asarray(self.next_timesteps.terminated | self.next_timesteps.truncated)


def compiled(env: envs.Env, n_episodes: int, seed: int) -> Playthrough:
    """Plays at least one full episode in every environment with uniform available actions.

    Args:
      n_episodes: E; fewer, but at least two, if episodes are very long.
      seed: of all randomness.
    """
    n_steps = env.spec.max_steps + 1
    n_envs = max(2, min(n_episodes, _MAX_STEPS // n_steps))

    def play_one(key: Array) -> Any:
        keys = jax.random.split(key, (n_steps, 3))
        env_state, timestep = env.reset(keys[0, 0])
        carry = (env_state, timestep, jnp.ones((), bool), jnp.zeros((), jnp.int32))
        return jax.lax.scan(lambda carry, k: _step(env, carry, k), carry, keys)[1], keys

    run = fast_jit(jax.vmap(play_one))
    steps, keys = run(jax.random.split(jax.random.key(seed), n_envs))
    return Playthrough(reset_keys=keys[:, :, 0], step_keys=keys[:, :, 1], **to_numpy(steps))


def _step(env: envs.Env, carry: Any, keys: Array) -> tuple[Any, dict[str, Any]]:
    """One step of one environment, after a reset if the previous episode has ended."""
    reset, steps = carry[2], carry[3]
    env_state, timestep = envs.select(reset, env.reset(keys[0]), carry[:2])
    steps = jnp.where(reset, 0, steps) + 1
    policy = envs.uniform_policy(env.spec.actions)
    actions, _ = policy.act(keys[2], env_state, timestep, policy.initial)
    next_state, next_timestep = env.step(keys[1], env_state, actions)
    ended = next_timestep.terminated | next_timestep.truncated
    timed_out = ~ended & (steps >= env.spec.max_steps)
    return (next_state, next_timestep, ended | timed_out, steps), {
        "reset": reset,
        "env_states": env_state,
        "timesteps": timestep,
        "actions": actions,
        "next_env_states": next_state,
        "next_timesteps": next_timestep,
        "timed_out": timed_out,
    }


def on_host(env: envs.HostEnv, seed: int) -> Playthrough:
    """Plays two episodes in sequence with random actions, as a single row."""
    episodes = env.start()
    steps = [step for i in range(2) for step in _host_episode(env.spec, episodes, seed + i)]
    episodes.close()
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves)[None], *steps)
    return Playthrough(
        reset_keys=None, step_keys=None, env_states=(), next_env_states=(), **stacked
    )


def _host_episode(
    spec: EnvSpec, episodes: envs.HostEpisodes, seed: int
) -> Iterator[dict[str, Any]]:
    """Fields of `Playthrough` for every step of an episode."""
    rng, timestep = np.random.default_rng(seed), episodes.reset(seed)
    for t in range(spec.max_steps):
        actions = _random_actions(rng, spec, timestep)
        next_timestep = episodes.step(actions)
        ended = bool(next_timestep.terminated or next_timestep.truncated)
        yield {
            "reset": t == 0,
            "timesteps": timestep,
            "actions": actions,
            "next_timesteps": next_timestep,
            "timed_out": not ended and t + 1 == spec.max_steps,
        }
        if ended:
            return
        timestep = next_timestep


def first_timesteps(env: envs.HostEnv, seed: int) -> tuple[TimeStep, TimeStep]:
    """Returns the time steps of a host environment after its reset and after one random step."""
    episodes = env.start()
    first = episodes.reset(seed)
    second = episodes.step(_random_actions(np.random.default_rng(seed), env.spec, first))
    episodes.close()
    return first, second


def _random_actions(rng: np.random.Generator, spec: EnvSpec, timestep: TimeStep) -> np.ndarray:
    """A joint action, uniform over available actions or over the box."""
    actions = spec.actions
    if isinstance(actions, Box):
        return rng.uniform(actions.low, actions.high, actions.shape).astype(np.float32)
    avail = np.asarray(timestep.avail_actions)
    return (rng.random(avail.shape) * avail).argmax(axis=-1).astype(np.int32)


def fast_jit(function: Callable) -> Callable:
    """`jax.jit`, on a CPU with the least XLA optimisation: the program runs only briefly."""
    on_cpu = jax.devices()[0].platform == "cpu"
    options = {"xla_backend_optimization_level": 0} if on_cpu else None
    return jax.jit(function, compiler_options=options)


def to_numpy(tree: Any) -> Any:
    """Converts a tree to NumPy arrays; typed keys to their data."""

    def leaf_to_numpy(leaf: Any) -> np.ndarray:
        leaf = jnp.asarray(leaf)
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(leaf_to_numpy, tree)
