"""`qmix_jax.baseline`: evaluates policies that are not learned."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from qmix_jax import config, evaluate, population, program, reprs, rollout, train_step
from qmix_jax.console import progress
from qmix_jax.envs import base as envs
from qmix_jax.machine import compile_cache
from qmix_jax.training import host_stepped
from qmix_jax.types import Array, Observed


class Baseline(NamedTuple):
    """Evaluation of a policy that is not learned.

    Attributes:
      env: name of the environment.  policy: name of the policy.
      episodes: per seed.
      metrics: name, as in evaluation -> one mean per seed, f[P].
    """

    env: str
    policy: str
    episodes: int
    metrics: dict[str, np.ndarray]

    def summary(self) -> dict[str, Any]:
        """Fields of `repr`; metrics are the mean and standard deviation over seeds."""
        scores = {name: progress.spread(values) for name, values in self.metrics.items()}
        return {"env": self.env, "policy": self.policy, "episodes": self.episodes, **scores}

    __repr__, _repr_html_ = reprs.text, reprs.html


def baseline(cfg: config.ExperimentConfig, policy: str = "random") -> Baseline:
    """Evaluates a policy that is not learned, in the same way as a trained one.

    Args:
      cfg: from `qmix_jax.load_config`; its environment, seeds and `eval.episodes` are used.
      policy: `random` (uniform over available actions, or over the box of continuous ones) or
        `heuristic` (SMAX only).
    Raises:
      ConfigError: a setting that cannot be honoured, or no such policy for this environment.
    """
    env, episodes = program.environment(cfg), cfg.eval.episodes
    policies = {"random": envs.uniform_policy(env.spec.actions)}
    if isinstance(env, envs.Env) and env.game is not None and env.game.heuristic is not None:
        policies["heuristic"] = env.game.heuristic
    if policy not in policies:
        raise config.ConfigError(
            f"baseline: {env.spec.name} has no policy={policy}; "
            f"{config.suggest(policy, tuple(policies))}"
        )
    seeds = range(cfg.seed, cfg.seed + cfg.seeds)
    if isinstance(env, envs.HostEnv):
        metrics = host_stepped.random_play(env, episodes, seeds)
        return Baseline(env.spec.name, policy, episodes, metrics)
    if cfg.compile_cache:
        compile_cache.enable()
    stage = rollout.CollectorSetup(
        envs.with_policy(env, policies[policy]),
        lambda batch_size: {"act": (), "learn": ()},
        rollout.Recording(),
        episodes,
    )

    def run(key: Array) -> dict[str, Array]:
        event = train_step.stream(key, train_step.EVAL, jnp.zeros((), jnp.int32))
        return evaluate.evaluate(stage, rollout.BoundPolicy(_idle), event)

    return Baseline(env.spec.name, policy, episodes, population.map_seeds(run, seeds))


def _idle(carry: tuple[()], seen: Observed, key: Array) -> tuple[tuple[()], Array, dict[str, Any]]:
    """Returns any action: the policy acts inside the environment."""
    del key
    return carry, jnp.zeros_like(seen.prev_actions), {}
