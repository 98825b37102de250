"""`qmix-jax evaluate`: a trained run, evaluated as in training, on episodes of its own."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from qmix_jax import components, config, population, program
from qmix_jax.deploy import policy, trained
from qmix_jax.envs import base as envs
from qmix_jax.machine import compile_cache
from qmix_jax.types import Actions, Box, EnvSpec

_FRESH = np.iinfo(np.int32).max
"""No evaluation in training has this index, so none saw these episodes."""


class Evaluation(NamedTuple):
    """How a trained run did.

    Attributes:
      run: its directory.
      env: name of the environment.
      parameters: `best` or `final`.
      members: numbers of the members evaluated.
      seeds: of the episodes; empty where they are those of the run's last evaluation.
      episodes: whole episodes per member and seed.
      metrics: as an evaluation's -> a mean per member and seed, f32[P, S].
    """

    run: str
    env: str
    parameters: str
    members: tuple[int, ...]
    seeds: tuple[int, ...]
    episodes: int
    metrics: dict[str, np.ndarray]


def evaluate_run(
    directory: str | os.PathLike[str],
    *,
    episodes: int | None = None,
    seed: int | Literal["last"] = 0,
    seeds: int = 1,
    parameters: trained.Kind = "best",
    members: Sequence[int] | int | str | None = None,
    values: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Plays whole episodes with a run's policies, in the program that evaluates in training.

    Args:
      directory: a run directory.
      episodes: per member and seed; by default as many as in training.
      seed: of the first episodes, which no evaluation in training saw; `last`: those of the run's
        last evaluation, so that with `parameters="final"` its last row comes out again.
      seeds: how many seeds, each with episodes of its own: `seed`, `seed + 1`, ...
      parameters: those of each member's best evaluation or of the end.
      members: some of the run's; `best` is the one with the best evaluation; None for all.
      values: dotted keys of `env`, for another scenario of equal shapes, for example
        `{"env.options.scenario": "5m_vs_6m"}`.
    Raises:
      ConfigError: not the directory of a run that has ended, a setting that cannot be honoured, or
        another scenario whose agents, observations or actions are not the run's.
    """
    run = trained.read(directory, parameters)
    chosen = _members(run, members)
    cfg = _config(run, episodes, values or {})
    if cfg.compile_cache:
        compile_cache.enable()
    env = program.environment(cfg)
    if isinstance(env, envs.HostEnv):
        raise config.ConfigError(
            f"evaluate: {env.spec.name} is stepped in Python; play it with qmix_jax.load_policy"
        )
    _refuse_other_shapes(run.spec, env.spec)
    algorithm = run.algorithm()
    evaluate = program.make_evaluate(
        algorithm, program.collector_setup(algorithm, env, cfg.eval.episodes)
    )
    keys, index = _randomness(run, chosen, seed, seeds)
    options = population.compiler_options(jax.default_backend())
    with policy.precision(cfg):
        compiled = jax.jit(evaluate, compiler_options=options)
        rows = [
            [compiled(key, own, index) for key in keys[i]]
            for i, own in enumerate(run.own(member) for member in chosen)
        ]
    return Evaluation(
        run=str(pathlib.Path(directory)),
        env=env.spec.name,
        parameters=parameters,
        members=chosen,
        seeds=() if seed == "last" else tuple(range(seed, seed + seeds)),
        episodes=cfg.eval.episodes,
        metrics={
            name: np.array([[result[name] for result in row] for row in rows], np.float32)
            for name in rows[0][0]
        },
    )


def _members(run: trained.TrainedRun, members: Sequence[int] | int | str | None) -> tuple[int, ...]:
    if members is None:
        return tuple(range(run.config.seeds))
    asked = [members] if isinstance(members, int | str) else members
    if not asked:
        raise config.ConfigError("evaluate: members is empty; name some, or leave it out for all")
    return tuple(run.member(member) for member in asked)


def _config(
    run: trained.TrainedRun, episodes: int | None, values: Mapping[str, Any]
) -> config.ExperimentConfig:
    for key in values:
        if not key.startswith("env."):
            raise config.ConfigError(
                f"evaluate: {key}: only keys of env can differ from the run's (env.options.*); "
                "the rest is what was trained"
            )
    changed = dict(values) if episodes is None else {**values, "eval.episodes": episodes}
    return config.with_values(run.config, changed, _find)


def _find(kind: str, name: str) -> Any:
    """What `trained.find` does, and the environment."""
    return components.find(kind, name) if kind == "envs" else trained.find(kind, name)


def _refuse_other_shapes(trained_on: EnvSpec, spec: EnvSpec) -> None:
    """What a policy reads and chooses must be as it was; what only training sees may differ."""
    for what, fact in {
        "agents": lambda spec: spec.n_agents,
        "observation shapes": lambda spec: spec.obs_shapes,
        "kind of actions": lambda spec: _kind(spec.actions),
        "numbers of actions": lambda spec: spec.actions.sizes,
        "agent groups": lambda spec: spec.agent_groups,
        "number of states": lambda spec: spec.n_states,
    }.items():
        before, now = fact(trained_on), fact(spec)
        if before != now:
            raise config.ConfigError(
                f"evaluate: {what} of {spec.name}: {_short(now)}; the run was trained on "
                f"{trained_on.name}: {_short(before)}; choose a scenario of equal shapes"
            )


def _kind(actions: Actions) -> str:
    if isinstance(actions, Box):
        return f"numbers from {actions.low:g} to {actions.high:g}"
    return "discrete"


def _short(fact: Any) -> str:
    """One of several that are alike."""
    alike = isinstance(fact, tuple) and len(set(fact)) == 1
    return f"{fact[0]} each" if alike else str(fact)


def _randomness(
    run: trained.TrainedRun, members: Sequence[int], seed: int | Literal["last"], seeds: int
) -> tuple[list[list[jax.Array]], np.int32]:
    """A key per member and seed, and the index of the evaluation."""
    if seeds < 1 or (seed != "last" and not (isinstance(seed, int) and 0 <= seed < 2**31 - seeds)):
        raise config.ConfigError(
            f"evaluate: seed={seed!r}, seeds={seeds}; allowed: seed from 0, or last; seeds from 1"
        )
    if seed == "last":
        if seeds > 1:
            raise config.ConfigError(
                "evaluate: the run's last episodes are one seed; leave out seeds"
            )
        index = run.manifest["reached"]["updates"] + run.manifest["plan"]["warm_up_collects"]
        return [[jax.random.key(run.config.seed + member)] for member in members], np.int32(index)
    keys = [jax.random.key(one) for one in range(seed, seed + seeds)]
    return [keys for _ in members], np.int32(_FRESH)
