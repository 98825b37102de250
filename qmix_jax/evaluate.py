"""Greedy, decentralised evaluation: exactly the first whole episode of each fresh environment."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from qmix_jax import rollout
from qmix_jax.envs import base as envs
from qmix_jax.types import Array, record


@record
class _Progress:
    """Loop state: step index, environments, and per-environment return, length and metrics."""

    step: Array
    actor: rollout.ActorState
    returned: Array
    length: Array
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
    zeros = jnp.zeros((n_episodes,))
    progress = _Progress(
        step=jnp.zeros((), jnp.int32),
        actor=rollout.start(env, key_start, n_episodes, carry),
        returned=zeros,
        length=zeros,
        metrics=dict.fromkeys(env.spec.metric_names, zeros),
    )

    def unfinished(progress: _Progress) -> Array:
        return (progress.step < env.spec.max_steps) & ~jnp.all(progress.actor.ended)

    def body(progress: _Progress) -> _Progress:
        key_act, key_env = jax.random.split(jax.random.fold_in(key_steps, progress.step))
        running = ~progress.actor.ended
        actor, _, following = rollout.act_and_step(env, act, progress.actor, key_act, key_env)
        over = following.terminated | following.truncated
        metrics = {
            name: jnp.where(running & over, following.metrics[name], value)
            for name, value in progress.metrics.items()
        }
        return _Progress(
            step=progress.step + 1,
            actor=replace(actor, ended=progress.actor.ended | over),
            returned=progress.returned + jnp.where(running, following.reward, 0.0),
            length=progress.length + running,
            metrics=metrics,
        )

    done = jax.lax.while_loop(unfinished, body, progress)
    means = {"return": done.returned, "length": done.length, **done.metrics}
    return {name: jnp.mean(value) for name, value in means.items()}
