"""`qmix-jax evaluate`: evaluates a trained run as in training, on new episodes."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from qmix_jax import components, config, population, program, reprs
from qmix_jax.console import progress
from qmix_jax.deploy import policy, trained
from qmix_jax.envs import base as envs
from qmix_jax.machine import compile_cache
from qmix_jax.types import Box, EnvSpec

_FRESH = np.iinfo(np.int32).max
"""Index that no evaluation in training uses, so its episodes are new."""


class Evaluation(NamedTuple):
    """Results of evaluating a trained run.

    Attributes:
      run: its directory.
      env: name of the environment.
      parameters: `best` or `final`.
      members: indices of the evaluated members.
      seeds: of the episodes; empty for the episodes of the run's last evaluation.
      episodes: per member and seed.
      metrics: name -> mean per member and seed, f32[P, S].
    """

    run: str
    env: str
    parameters: str
    members: tuple[int, ...]
    seeds: tuple[int, ...]
    episodes: int
    metrics: dict[str, np.ndarray]

    def summary(self) -> dict[str, Any]:
        """Returns the fields of `repr`: metrics are mean and standard deviation over members."""
        scores = {name: progress.spread(v.mean(axis=1)) for name, v in self.metrics.items()}
        fields = self._asdict()
        del fields["metrics"]
        return {**fields, **scores}

    __repr__, _repr_html_ = reprs.text, reprs.html


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
    """Evaluates a run's policies with the same program as in training.

    Args:
      directory: a run directory.
      episodes: per member and seed; by default as many as in training.
      seed: of new episodes, which no evaluation in training used; `last`: the episodes of the run's
        last evaluation, which with `parameters="final"` reproduce its last row.
      seeds: number of seeds: `seed`, `seed + 1`, ...
      parameters: of each member's best evaluation, or of the end of training.
      members: which members; `best` is the one with the best evaluation; None for all.
      values: dotted keys of `env`, for another scenario of equal shapes, for example
        `{"env.options.scenario": "5m_vs_6m"}`.
    Raises:
      ConfigError: not the directory of a finished run, an invalid setting, or another scenario with
        different agents, observations or actions.
    """
    run = trained.read(directory, parameters)
    selected = [members] if isinstance(members, int | str) else members
    if selected is None:
        selected = range(run.config.seeds)
    elif not selected:
        raise config.ConfigError("evaluate: members is empty; name some, or leave it out for all")
    indices = tuple(map(run.member, selected))
    cfg = _config(run, episodes, values or {})
    if cfg.compile_cache:
        compile_cache.enable()
    env = program.environment(cfg)
    if isinstance(env, envs.HostEnv):
        raise config.ConfigError(
            f"evaluate: {env.spec.name} is stepped in Python; use qmix_jax.load_policy instead"
        )
    _check_shapes(run.spec, env.spec)
    algorithm = run.algorithm()
    evaluate = program.make_evaluate(
        algorithm, program.collector_setup(algorithm, env, cfg.eval.episodes)
    )
    keys, index = _keys(run, indices, seed, seeds)
    options = population.compiler_options(jax.default_backend())
    with policy.precision(cfg):
        compiled = jax.jit(evaluate, compiler_options=options)
        rows = [
            [compiled(key, params, index) for key in member_keys]
            for member_keys, params in zip(keys, map(run.member_params, indices), strict=True)
        ]
    return Evaluation(
        run=str(pathlib.Path(directory)),
        env=env.spec.name,
        parameters=parameters,
        members=indices,
        seeds=() if seed == "last" else tuple(range(seed, seed + seeds)),
        episodes=cfg.eval.episodes,
        metrics={
            name: np.array([[result[name] for result in row] for row in rows], np.float32)
            for name in rows[0][0]
        },
    )


def _config(
    run: trained.TrainedRun, episodes: int | None, values: Mapping[str, Any]
) -> config.ExperimentConfig:
    for key in values:
        if not key.startswith("env."):
            raise config.ConfigError(
                f"evaluate: {key}: only keys of env can differ from the run's (env.options.*)"
            )
    changed = dict(values) if episodes is None else {**values, "eval.episodes": episodes}

    def find(kind: str, name: str) -> Any:
        return components.find(kind, name) if kind == "envs" else trained.find(kind, name)

    return config.with_values(run.config, changed, find)


def _check_shapes(trained_on: EnvSpec, spec: EnvSpec) -> None:
    """Raises: ConfigError if the inputs or outputs of a policy differ from those in training."""
    before, now = _shapes(trained_on), _shapes(spec)
    for name, value in now.items():
        if value != before[name]:
            raise config.ConfigError(
                f"evaluate: {name} of {spec.name}: {_short(value)}; the run was trained on "
                f"{trained_on.name}: {_short(before[name])}; choose a scenario of equal shapes"
            )


def _shapes(spec: EnvSpec) -> dict[str, Any]:
    actions = spec.actions
    kind = f"box {actions.low:g} to {actions.high:g}" if isinstance(actions, Box) else "discrete"
    return {
        "number of agents": spec.n_agents,
        "observation shapes": spec.obs_shapes,
        "kind of actions": kind,
        "number of actions": actions.sizes,
        "agent groups": spec.agent_groups,
        "number of states": spec.n_states,
    }


def _short(value: Any) -> str:
    """Formats a value; equal entries of a tuple are written once."""
    equal = isinstance(value, tuple) and len(set(value)) == 1
    return f"{value[0]} each" if equal else str(value)


def _keys(
    run: trained.TrainedRun, members: Sequence[int], seed: int | Literal["last"], seeds: int
) -> tuple[list[list[jax.Array]], np.int32]:
    """(a key per member and seed, index of the evaluation)."""
    if seeds < 1 or (seed != "last" and not (isinstance(seed, int) and 0 <= seed < 2**31 - seeds)):
        raise config.ConfigError(
            f"evaluate: seed={seed!r}, seeds={seeds}; allowed: seed >= 0 or last, seeds >= 1"
        )
    if seed == "last":
        if seeds > 1:
            raise config.ConfigError(
                "evaluate: seed=last has the episodes of one seed; leave out seeds"
            )
        index = run.manifest["reached"]["updates"] + run.manifest["plan"]["warm_up_collects"]
        return [[jax.random.key(run.config.seed + member)] for member in members], np.int32(index)
    keys = [jax.random.key(value) for value in range(seed, seed + seeds)]
    return [keys for _ in members], np.int32(_FRESH)
