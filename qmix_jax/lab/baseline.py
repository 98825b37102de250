"""How policies written by hand do, evaluated as trained ones are."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from qmix_jax import config, evaluate, population, program, rollout, train_step
from qmix_jax.envs import base as envs
from qmix_jax.machine import compile_cache
from qmix_jax.training import host_stepped
from qmix_jax.types import Array, Observed


class Baseline(NamedTuple):
    """How a policy written by hand did.

    Attributes:
      env: name of the environment.  policy: name of the policy.
      episodes: whole episodes per seed.
      metrics: as an evaluation's -> one mean per seed, f[P].
    """

    env: str
    policy: str
    episodes: int
    metrics: dict[str, np.ndarray]


def baseline(cfg: config.ExperimentConfig, policy: str = "random") -> Baseline:
    """Evaluates a policy that nothing was trained for, as trained ones are evaluated.

    Args:
      cfg: from `qmix_jax.load_config`; its environment, seeds and `eval.episodes` are used.
      policy: `random` (uniform over available actions, or over the box of continuous ones) or
        `heuristic` (SMAX only).
    Raises:
      ConfigError: a setting that cannot be honoured, or no such policy for this environment.
    """
    env, episodes = program.environment(cfg), cfg.eval.episodes
    chosen = _policy(env, policy)
    seeds = range(cfg.seed, cfg.seed + cfg.seeds)
    if isinstance(env, envs.HostEnv):
        metrics = host_stepped.random_play(env, episodes, seeds)
        return Baseline(env.spec.name, policy, episodes, metrics)
    if cfg.compile_cache:
        compile_cache.enable()
    stage = rollout.CollectorSetup(
        envs.played_by(env, chosen), _no_carry, rollout.Recording(), episodes
    )

    def run(key: Array) -> dict[str, Array]:
        event = train_step.stream(key, train_step.EVAL, jnp.zeros((), jnp.int32))
        return evaluate.evaluate(stage, rollout.BoundPolicy(_idle), event)

    return Baseline(env.spec.name, policy, episodes, population.map_seeds(run, seeds))


def _policy(env: program.AnyEnv, name: str) -> envs.HeuristicPolicy:
    """Raises: ConfigError where the environment has no such policy."""
    known = {"random": envs.uniform_policy(env.spec.actions)}
    heuristic = env.game.heuristic if env.game is not None else None
    if heuristic is not None and isinstance(env, envs.Env):
        known["heuristic"] = heuristic
    if name not in known:
        raise config.ConfigError(
            f"baseline: {env.spec.name} has no policy={name}; {config.suggest(name, tuple(known))}"
        )
    return known[name]


def _no_carry(batch_size: int) -> dict[str, tuple[()]]:
    del batch_size
    return {"act": (), "learn": ()}


def _idle(carry: tuple[()], seen: Observed, key: Array) -> tuple[tuple[()], Array, dict[str, Any]]:
    """The policy acts inside the environment, whatever is chosen here."""
    del key
    return carry, jnp.zeros_like(seen.prev_actions), {}
