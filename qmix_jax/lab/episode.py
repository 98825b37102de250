"""`qmix_jax.inspect_episode`: utilities, values and weights along one greedy episode."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from qmix_jax import collectors, config, population, program, train_step
from qmix_jax.envs import base as envs
from qmix_jax.types import Array


def inspect_episode(
    cfg: config.ExperimentConfig, parameters: Any, member: int = 0, seed: int = 0
) -> dict[str, np.ndarray]:
    """Plays one greedy episode and returns the algorithm's values at each of its T steps.

    Args:
      cfg: the configuration of a run.
      parameters: the run's, [P, ...], from `Session.parameters`, `Result.parameters` or
        `qmix_jax.load_parameters`.
      member: index of the member that plays.
      seed: of the episode.
    Returns:
      name -> f32[T, ...]: `reward`, and, if the algorithm has them, `utilities` f32[T, N, A],
      `q_tot` f32[T], `q_joint` f32[T] and `mixer/<name>` (see `Algorithm.inspect`).
    Raises:
      ConfigError: no such member, or an environment that is stepped in Python.
    """
    if not 0 <= member < cfg.seeds:
        raise config.ConfigError(
            f"inspect: member={member}, but the run has {cfg.seeds}; allowed: 0 to {cfg.seeds - 1}"
        )
    play = _compile_play(cfg)  # pyright: ignore[reportArgumentType]  # pydantic models do hash
    length, values = play(jax.random.key(seed), jax.tree.map(lambda x: x[member], parameters))
    return {name: np.asarray(x)[: int(length), 0] for name, x in values.items()}


@functools.lru_cache(maxsize=4)
def _compile_play(
    cfg: config.ExperimentConfig,
) -> Callable[[Array, Any], tuple[Array, dict[str, Array]]]:
    """Compiles `(key, params) -> (length, name -> [T, 1, ...])`."""
    env = program.environment(cfg)
    if isinstance(env, envs.HostEnv):
        raise config.ConfigError(
            f"inspect: {env.spec.name} is stepped in Python; allowed: an environment in JAX"
        )
    algorithm = program.make_algorithm(cfg, env.spec)
    collector = collectors.make_episode(
        program.collector_setup(algorithm, env, 1), env.spec.max_steps
    )

    def play(key: Array, params: Any) -> tuple[Array, dict[str, Array]]:
        _, trajectory, metrics = collector.collect(
            key, (), train_step.greedy_policy(algorithm, params)
        )
        values = algorithm.inspect(params, trajectory) if algorithm.inspect is not None else {}
        return metrics["rollout/length"][0], {"reward": trajectory.reward, **values}

    return jax.jit(play, compiler_options=population.compiler_options(jax.default_backend()))
