"""Plays an environment at random: many copies in one program, or an episode at a time in Python.
Ended episodes are followed by fresh ones, as in training.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.envs import base as envs
from qmix_jax.types import Array, Box, EnvSpec, TimeStep

_MOST_STEPS = 8_192
"""Steps of all copies together, at most, as long as two copies remain."""


class Playthrough(NamedTuple):
    """What happened, in NumPy arrays `[E, T, ...]`; step t leads from `shown` to `stepped`.

    Attributes:
      reset_keys, step_keys: typed keys (JAX arrays) of every step; None of play in Python.
      reset: bool, `shown` is the first of an episode: it came from `reset` and that step's key.
      env_states, shown: before the step.
      actions: i32[E, T, N] or f32[E, T, N, D], available ones.
      env_states_after, stepped: after the step, before any reset.
      timed_out: bool, the episode was still going on after `max_steps` steps and was ended here.
    """

    reset_keys: Any
    step_keys: Any
    reset: np.ndarray
    env_states: Any
    shown: TimeStep
    actions: np.ndarray
    env_states_after: Any
    stepped: TimeStep
    timed_out: np.ndarray

    @property
    def ended(self) -> np.ndarray:
        """bool[E, T], the step ended its episode."""
        return np.asarray(self.stepped.terminated | self.stepped.truncated)


def at_random(env: envs.Env, n_episodes: int, seed: int) -> Playthrough:
    """At least one whole episode of every copy, by uniformly random available actions.

    Args:
      n_episodes: E; fewer, but at least two, where episodes are very long.
      seed: of everything drawn.
    """
    n_steps = env.spec.max_steps + 1
    n_copies = max(2, min(n_episodes, _MOST_STEPS // n_steps))

    def copy(key: Array) -> Any:
        keys = jax.random.split(key, (n_steps, 3))
        env_state, timestep = env.reset(keys[0, 0])
        carried = (env_state, timestep, jnp.ones((), bool), jnp.zeros((), jnp.int32))
        return jax.lax.scan(lambda carried, k: _step(env, carried, k), carried, keys)[1], keys

    run = compiled(jax.vmap(copy))
    steps, keys = run(jax.random.split(jax.random.key(seed), n_copies))
    host = {name: jax.tree.map(_to_numpy, value) for name, value in steps.items()}
    return Playthrough(reset_keys=keys[:, :, 0], step_keys=keys[:, :, 1], **host)


def in_python(env: envs.HostEnv, seed: int) -> Playthrough:
    """Two episodes by random actions, one after the other in a single row."""
    episodes = env.start()
    rows = [
        step for number in range(2) for step in _steps_in_python(env.spec, episodes, seed + number)
    ]
    episodes.close()
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves)[None], *rows)
    return Playthrough(
        reset_keys=None, step_keys=None, env_states=(), env_states_after=(), **stacked
    )


def _steps_in_python(
    spec: EnvSpec, episodes: envs.HostEpisodes, seed: int
) -> Iterator[dict[str, Any]]:
    """Fields of `Playthrough` for every step of an episode."""
    rng, shown = np.random.default_rng(seed), episodes.reset(seed)
    for t in range(spec.max_steps):
        actions = random_actions(rng, spec, shown)
        stepped = episodes.step(actions)
        over = bool(stepped.terminated or stepped.truncated)
        yield {
            "reset": t == 0,
            "shown": shown,
            "actions": actions,
            "stepped": stepped,
            "timed_out": not over and t + 1 == spec.max_steps,
        }
        if over:
            return
        shown = stepped


def first_steps(env: envs.HostEnv, seed: int) -> tuple[TimeStep, TimeStep]:
    """What an environment in Python shows after its reset and after a random step."""
    episodes = env.start()
    first = episodes.reset(seed)
    after = episodes.step(random_actions(np.random.default_rng(seed), env.spec, first))
    episodes.close()
    return first, after


def random_actions(rng: np.random.Generator, spec: EnvSpec, shown: TimeStep) -> np.ndarray:
    """A joint action, uniform over available actions or over the box."""
    actions = spec.actions
    if isinstance(actions, Box):
        return rng.uniform(actions.low, actions.high, actions.shape).astype(np.float32)
    avail = np.asarray(shown.avail_actions)
    return (rng.random(avail.shape) * avail).argmax(axis=-1).astype(np.int32)


def compiled(function: Callable) -> Callable:
    """`jax.jit`, with what little effort for machine code a short use is worth."""
    on_cpu = jax.devices()[0].platform == "cpu"
    options = {"xla_backend_optimization_level": 0} if on_cpu else None
    return jax.jit(function, compiler_options=options)


def _step(env: envs.Env, carried: Any, keys: Array) -> tuple[Any, dict[str, Any]]:
    """One step of one copy; an episode that has ended is followed by a fresh one."""
    ended, steps = carried[2], carried[3]
    env_state, shown = envs.select(ended, env.reset(keys[0]), carried[:2])
    steps = jnp.where(ended, 0, steps) + 1
    policy = envs.uniform_policy(env.spec.actions)
    actions, _ = policy.act(keys[2], env_state, shown, policy.initial)
    after, stepped = env.step(keys[1], env_state, actions)
    over = stepped.terminated | stepped.truncated
    timed_out = ~over & (steps >= env.spec.max_steps)
    return (after, stepped, over | timed_out, steps), {
        "reset": ended,
        "env_states": env_state,
        "shown": shown,
        "actions": actions,
        "env_states_after": after,
        "stepped": stepped,
        "timed_out": timed_out,
    }


def _to_numpy(leaf: Array) -> np.ndarray:
    """Typed keys become their numbers."""
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)
