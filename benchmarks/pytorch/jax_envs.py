"""Environments of the package (SMAX, MPE), stepped by a compiled program for a PyTorch agent.

Tensors are passed by DLPack, without a copy if both libraries are on the same device.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import torch

from benchmarks.pytorch import records
from qmix_jax import components
from qmix_jax.envs import base
from qmix_jax.types import Array, TimeStep


class _Running(NamedTuple):
    """Environments between two steps: key, states [B] and time steps [B]."""

    key: Array
    env_state: Any
    timestep: TimeStep


def make(
    name: str, options: Mapping[str, Any], n_envs: int, seed: int, device: torch.device
) -> records.Environments:
    """Compiles a batch of environments.

    Args:
      name: of a component in `qmix_jax.envs`, for example `jaxmarl`.
      options: of the component, for example `{"id": "HeuristicEnemySMAX", "scenario": "3m"}`.
      n_envs: B.
      seed: of the environments' randomness.
      device: `cpu` or `cuda`; JAX runs there too.
    """
    module = components.find("envs", name)
    env = module.make(module.Config.model_validate(dict(options)))
    key = jax.device_put(jax.random.key(seed), jax.devices(device.type)[0])
    reset, step = _compiled(env, n_envs, key)
    spec = env.spec
    running = reset(key)

    def reset_all() -> records.TimeStep:
        nonlocal running
        running = reset(running.key)
        return _to_torch(env, running.timestep)

    def step_all(actions: torch.Tensor) -> records.TimeStep:
        nonlocal running
        running = step(running, jnp.from_dlpack(actions.to(torch.int32)))
        return _to_torch(env, running.timestep)

    return records.Environments(
        spec=records.Spec(
            n_agents=spec.n_agents,
            n_actions=spec.actions.width,
            obs_size=spec.obs_shape[0],
            state_size=spec.state_size,
            max_steps=spec.max_steps,
        ),
        n_envs=n_envs,
        reset=reset_all,
        step=step_all,
        close=lambda: None,
    )


def _compiled(
    env: base.Env, n_envs: int, key: Array
) -> tuple[Callable[[Array], _Running], Callable[[_Running, Array], _Running]]:
    """Returns batched `env.reset` and `env.step`, compiled ahead of time."""

    def reset(key: Array) -> _Running:
        key, key_start = jax.random.split(key)
        env_state, timestep = jax.vmap(env.reset)(jax.random.split(key_start, n_envs))
        return _Running(key, env_state, timestep)

    def step(running: _Running, actions: Array) -> _Running:
        key, key_step = jax.random.split(running.key)
        keys = jax.random.split(key_step, n_envs)
        env_state, timestep = jax.vmap(env.step)(keys, running.env_state, actions)
        ended = running.timestep.terminated | running.timestep.truncated
        return _Running(
            key,
            base.select(ended, running.env_state, env_state),
            base.select(ended, running.timestep, timestep),
        )

    compiled_reset = jax.jit(reset).lower(key).compile()
    actions = jnp.zeros((n_envs, env.spec.n_agents), jnp.int32, device=key.device)
    return compiled_reset, jax.jit(step).lower(compiled_reset(key), actions).compile()


def _to_torch(env: base.Env, timestep: TimeStep) -> records.TimeStep:
    jax.block_until_ready(timestep)
    assert env.team_reward is not None, "the learner needs a team reward"
    return records.TimeStep(
        obs=torch.from_dlpack(timestep.obs),
        state=torch.from_dlpack(timestep.state),
        avail_actions=torch.from_dlpack(timestep.avail_actions),
        reward=torch.from_dlpack(env.team_reward(timestep.reward)),
        terminated=torch.from_dlpack(timestep.terminated),
        truncated=torch.from_dlpack(timestep.truncated),
        metrics={name: torch.from_dlpack(value) for name, value in timestep.metrics.items()},
    )
