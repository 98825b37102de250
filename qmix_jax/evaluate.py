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
class EpisodeBatch:
    """Whole episodes side by side, of up to T steps; what follows an end is not `valid`.

    Attributes:
      shown: tree [T+1, B, ...], what was looked at, before the first step and after each.
      actions: i32[T, B, N] or f32[T, B, N, D].
      reward: f32[T, B], as `envs.score` counts it.
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
    stage: rollout.CollectorSetup, behaviour: rollout.Behaviour, key: Array
) -> dict[str, Array]:
    """Mean return, length and metrics of whole episodes.

    Args:
      stage: the environment, raw rewards are summed without discount; as many episodes as it has
        environments, each run for its first episode only.
      behaviour: how agents act, greedily for the usual protocol.
      key: typed PRNG key.
    Returns:
      `return`, `length`, each of `env.spec.metric_names`, and `return/<agent>` where agents compete
      or learn from their own rewards -> f32[].
    Reference: Samvelyan et al. 2019 (SMAC), section on evaluation; a timeout is not a win.
    """
    key_start, key_steps = jax.random.split(key)
    first = stage.start(key_start)
    names = stage.episode_metrics(first)
    progress = _Progress(
        step=jnp.zeros((), jnp.int32),
        actor=first,
        ended=jnp.zeros((stage.n_envs,), bool),
        metrics=dict.fromkeys(names, jnp.zeros((stage.n_envs,))),
    )

    def unfinished(progress: _Progress) -> Array:
        return (progress.step < stage.env.spec.max_steps) & ~jnp.all(progress.ended)

    def body(progress: _Progress) -> _Progress:
        key_act, key_env = jax.random.split(jax.random.fold_in(key_steps, progress.step))
        actor = stage.step(behaviour, progress.actor, key_act, key_env)[0]
        reached = stage.episode_metrics(actor)
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
    stage: rollout.CollectorSetup,
    behaviour: rollout.Behaviour,
    key: Array,
    look: Callable[[envs.EnvState], Any],
) -> EpisodeBatch:
    """The very episodes that `evaluate` plays, step by step.

    Args:
      stage, behaviour, key: as `evaluate`'s.
      look: `(env_state) -> tree of arrays`, what to keep of one environment's state.
    """
    key_start, key_steps = jax.random.split(key)
    first = stage.start(key_start)
    each = jax.vmap(look, axis_size=stage.n_envs)  # a state may hold no arrays

    def body(actor: rollout.ActorState, step: Array) -> tuple[rollout.ActorState, EpisodeBatch]:
        key_act, key_env = jax.random.split(jax.random.fold_in(key_steps, step))
        after, actions, _ = stage.step(behaviour, actor, key_act, key_env)
        seen = EpisodeBatch(
            shown=each(after.env_state),
            actions=actions,
            reward=envs.score(stage.env, after.timestep.reward),
            terminated=after.timestep.terminated,
            truncated=after.timestep.truncated,
            valid=~actor.ended,
            metrics=after.timestep.metrics,
        )
        return replace(after, ended=actor.ended | after.ended), seen

    _, steps = jax.lax.scan(body, first, jnp.arange(stage.env.spec.max_steps))
    start = each(first.env_state)
    shown = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, steps.shown)
    return replace(steps, shown=shown)
