"""Greedy, decentralised evaluation: exactly the first whole episode of each fresh environment."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from qmix_jax import rollout
from qmix_jax.envs import base as envs
from qmix_jax.types import Array, record


@record
class _Progress:
    """Loop state: step index, environments, which have ended, and the ended episodes' metrics."""

    step: Array
    actor: rollout.ActorState
    ended: Array
    metrics: dict[str, Array]


@record
class Episodes:
    """Whole episodes side by side, of up to T steps; what follows an end is not `valid`.

    Attributes:
      shown: tree [T+1, B, ...], what was looked at, before the first step and after each.
      actions: i32[T, B, N].
      reward: f32[T, B].
      terminated, truncated, valid: bool[T, B].
      metrics: name -> f32[T, B].
    """

    shown: Any
    actions: Array
    reward: Array
    terminated: Array
    truncated: Array
    valid: Array
    metrics: dict[str, Array]


def evaluate(
    env: envs.Env, act: rollout.Act, carry: Any, n_episodes: int, key: Array
) -> dict[str, Array]:
    """Mean return, length and metrics of `n_episodes` whole episodes.

    Args:
      env: one environment; its raw rewards are summed, without discount.
      act: acting function, greedy for the usual protocol.
      carry: the agent's initial carry for `n_episodes` environments.
      n_episodes: environments, each run for its first episode only.
      key: typed PRNG key.
    Returns:
      `return`, `length` and each of `env.spec.metric_names` -> f32[].
    Reference: Samvelyan et al. 2019 (SMAC), section on evaluation; a timeout is not a win.
    """
    key_start, key_steps = jax.random.split(key)
    names = ("return", "length", *env.spec.metric_names)
    progress = _Progress(
        step=jnp.zeros((), jnp.int32),
        actor=rollout.start(env, key_start, n_episodes, carry),
        ended=jnp.zeros((n_episodes,), bool),
        metrics=dict.fromkeys(names, jnp.zeros((n_episodes,))),
    )

    def unfinished(progress: _Progress) -> Array:
        return (progress.step < env.spec.max_steps) & ~jnp.all(progress.ended)

    def body(progress: _Progress) -> _Progress:
        key_act, key_env = jax.random.split(jax.random.fold_in(key_steps, progress.step))
        actor, _ = rollout.act_and_step(env, act, progress.actor, key_act, key_env)
        reached = {"return": actor.returned, "length": actor.length, **actor.timestep.metrics}
        first_end = actor.ended & ~progress.ended
        return _Progress(
            step=progress.step + 1,
            actor=actor,
            ended=progress.ended | actor.ended,
            metrics={
                name: jnp.where(first_end, reached[name], old)
                for name, old in progress.metrics.items()
            },
        )

    done = jax.lax.while_loop(unfinished, body, progress)
    return {name: jnp.mean(value) for name, value in done.metrics.items()}


def watch(
    env: envs.Env,
    act: rollout.Act,
    carry: Any,
    n_episodes: int,
    key: Array,
    look: Callable[[envs.EnvState], Any],
) -> Episodes:
    """The very episodes that `evaluate` plays, step by step.

    Args:
      env, act, carry, n_episodes, key: as `evaluate`'s.
      look: `(env_state) -> tree of arrays`, what to keep of one environment's state.
    """
    key_start, key_steps = jax.random.split(key)
    first = rollout.start(env, key_start, n_episodes, carry)
    each = jax.vmap(look, axis_size=n_episodes)  # a state may hold no arrays

    def body(actor: rollout.ActorState, step: Array) -> tuple[rollout.ActorState, Episodes]:
        key_act, key_env = jax.random.split(jax.random.fold_in(key_steps, step))
        after, actions = rollout.act_and_step(env, act, actor, key_act, key_env)
        seen = Episodes(
            shown=each(after.env_state),
            actions=actions,
            reward=after.timestep.reward,
            terminated=after.timestep.terminated,
            truncated=after.timestep.truncated,
            valid=~actor.ended,
            metrics=after.timestep.metrics,
        )
        return replace(after, ended=actor.ended | after.ended), seen

    _, steps = jax.lax.scan(body, first, jnp.arange(env.spec.max_steps))
    start = each(first.env_state)
    shown = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, steps.shown)
    return replace(steps, shown=shown)
