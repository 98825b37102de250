"""How policies written by hand do, evaluated as trained ones are."""

from typing import NamedTuple

import numpy as np

from qmix_jax import components, config, population, program
from qmix_jax.envs import base as envs
from qmix_jax.runtime import compile_cache, hosted


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
      policy: `random` (uniform over available actions) or `heuristic` (SMAX only).
    Raises:
      ConfigError: a setting that cannot be honoured, or no such policy for this environment.
    """
    env = components.find("envs", cfg.env.name).make(cfg.env.options)
    if env.host is not None:
        return _on_host(env, cfg, policy)
    if cfg.compile_cache:
        compile_cache.enable()
    name, run = program.baseline(cfg, policy)
    seeds = range(cfg.seed, cfg.seed + cfg.seeds)
    return Baseline(name, policy, cfg.eval.episodes, population.each_seed(run, seeds))


def _on_host(env: envs.Env, cfg: config.ExperimentConfig, policy: str) -> Baseline:
    """Of an environment that is stepped in Python; it has no policy of its own."""
    if policy != "random" or env.host is None:
        raise config.ConfigError(
            f"baseline: {env.spec.name} has no policy={policy}; "
            f"{config.suggest(policy, ('random',))}"
        )
    seeds = range(cfg.seed, cfg.seed + cfg.seeds)
    found = hosted.random_play(env.spec, env.host, cfg.eval.episodes, seeds)
    return Baseline(env.spec.name, policy, cfg.eval.episodes, found)
