"""Greedy, decentralised evaluation: exactly the first episode of each fresh environment."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from qmix_jax import rollout
from qmix_jax.envs import base as envs
from qmix_jax.types import Array, record


@record
class _LoopState:
    """Step index, environments, which of them have ended, and the metrics of ended episodes."""

    step: Array
    actor: rollout.ActorState
    ended: Array
    metrics: dict[str, Array]


@record
class EpisodeBatch:
    """Complete episodes of up to T steps; entries after an end are not `valid`.

    Attributes:
      extracted: tree [T+1, B, ...] from `extract`, before the first step and after each.
      actions: i32[T, B, N] or f32[T, B, N, D].
      reward: f32[T, B], as `envs.score` counts it.
      terminated, truncated, valid: bool[T, B].
      metrics: name -> f32[T, B].
    """

    extracted: Any
    actions: Array
    reward: Array
    terminated: Array
    truncated: Array
    valid: Array
    metrics: dict[str, Array]


def evaluate(
    setup: rollout.CollectorSetup, policy: rollout.BoundPolicy, key: Array
) -> dict[str, Array]:
    """Returns the mean return, length and metrics of complete episodes.

    Args:
      setup: environments; each plays one episode. Returns sum raw rewards without discount.
      policy: the greedy one for the usual protocol.
      key: typed PRNG key.
    Returns:
      `return`, `length`, each of `env.spec.metric_names`, and `return/<agent>` where agents compete
      or learn from their own rewards -> f32[].
    Reference: Samvelyan et al. 2019 (SMAC), section on evaluation; a timeout is not a win.
    """
    key_start, key_steps = jax.random.split(key)
    first = setup.start(key_start)
    names = setup.episode_metrics(first)
    initial = _LoopState(
        step=jnp.zeros((), jnp.int32),
        actor=first,
        ended=jnp.zeros((setup.n_envs,), bool),
        metrics=dict.fromkeys(names, jnp.zeros((setup.n_envs,))),
    )

    def unfinished(state: _LoopState) -> Array:
        return (state.step < setup.env.spec.max_steps) & ~jnp.all(state.ended)

    def body(state: _LoopState) -> _LoopState:
        key_act, key_env = jax.random.split(jax.random.fold_in(key_steps, state.step))
        actor = setup.step(policy, state.actor, key_act, key_env)[0]
        current = setup.episode_metrics(actor)
        first_end = actor.ended & ~state.ended
        return _LoopState(
            step=state.step + 1,
            actor=actor,
            ended=state.ended | actor.ended,
            metrics={
                name: jnp.where(first_end, current[name], old)
                for name, old in state.metrics.items()
            },
        )

    final = jax.lax.while_loop(unfinished, body, initial)
    return {name: jnp.mean(value) for name, value in final.metrics.items()}


def record_episodes(
    setup: rollout.CollectorSetup,
    policy: rollout.BoundPolicy,
    key: Array,
    extract: Callable[[envs.EnvState], Any],
) -> EpisodeBatch:
    """Plays the same episodes as `evaluate` and records every step.

    Args:
      setup, policy, key: as in `evaluate`.
      extract: `(env_state) -> tree of arrays` to record of one environment's state.
    """
    key_start, key_steps = jax.random.split(key)
    first = setup.start(key_start)
    extract_batch = jax.vmap(extract, axis_size=setup.n_envs)  # a state may hold no arrays

    def body(actor: rollout.ActorState, step: Array) -> tuple[rollout.ActorState, EpisodeBatch]:
        key_act, key_env = jax.random.split(jax.random.fold_in(key_steps, step))
        next_actor, actions, _ = setup.step(policy, actor, key_act, key_env)
        timestep = next_actor.timestep
        recorded = EpisodeBatch(
            extracted=extract_batch(next_actor.env_state),
            actions=actions,
            reward=envs.score(setup.env, timestep.reward),
            terminated=timestep.terminated,
            truncated=timestep.truncated,
            valid=~actor.ended,
            metrics=timestep.metrics,
        )
        return replace(next_actor, ended=actor.ended | next_actor.ended), recorded

    _, steps = jax.lax.scan(body, first, jnp.arange(setup.env.spec.max_steps))
    start = extract_batch(first.env_state)
    extracted = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, steps.extracted)
    return replace(steps, extracted=extracted)
