"""Compiles and trains a population in this process, without files."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from qmix_jax import config, groups, population, program, train_step

TINY: dict[str, Any] = {
    "name": "tiny",
    "seeds": 1,
    "env": {"name": "toys.counting", "options": {"longest": 12}},
    "agent": {"name": "gru", "options": {"hidden": 8}},
    "algo": {
        "name": "qmix",
        "algorithm": "td",
        "mixer": {"name": "qmix", "options": {"embed_dim": 4, "hypernet_embed": 8}},
    },
    "hparams": {
        "epsilon": {"start": 1.0, "end": 0.1, "steps": 500},
        "reward_scale": 1.0,
        "target_period": 5,
    },
    "replay": {"batch_size": 4, "capacity": 12},
    "trainer": {
        "env_steps": 1_000,
        "warm_up": 30,
        "collector": "segment",
        "window": None,
        "n_envs": 3,
        "gradient_steps": 2,
        "log_every": 200,
    },
    "eval": {"every": 500, "episodes": 8},
}

SMALL: dict[str, Any] = {
    "agent": {"name": "mlp", "options": {"hidden": 8}},
    "algo": {"name": "vdn", "algorithm": "td", "mixer": {"name": "vdn"}},
}
"""Changes to `TINY` that halve the time to compile it, where the algorithm does not matter."""


class Trained(NamedTuple):
    """A population after training: numpy parameters [P, ...], evaluation, and tally."""

    members: population.Population
    program: program.Program
    states: population.Rounds
    parameters: Any
    evaluation: dict[str, np.ndarray]
    metrics: population.Metrics


def load(**changes: Any) -> config.ExperimentConfig:
    """`TINY` with `changes` merged into its sections."""
    merged = dict(TINY)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict) and key not in ("env", "algo")
        merged[key] = {**old, **value} if both else value
    return config.load(merged)


def small(**changes: Any) -> config.ExperimentConfig:
    """As `load`, of `TINY` with `SMALL`."""
    return load(**{**SMALL, **changes})


def compiled(cfg: config.ExperimentConfig) -> tuple[population.Population, program.Program]:
    """The members of a configuration; a program is compiled once, whatever its seeds and `hparams`,
    until `forget`.
    """
    places = population.make_layout(
        cfg.seeds, jax.devices()[: cfg.population.devices], cfg.population.batching
    )
    seeds = range(cfg.seed, cfg.seed + cfg.seeds)
    hparams = [program.hparams(cfg.hparams)] * cfg.seeds
    key = (groups.compiled_part(cfg), places.size)
    if key not in _compiled:
        built = program.build(cfg)
        _compiled[key] = (
            built,
            population.compile_programs(
                built, places, seeds, hparams, cfg.precision, time.perf_counter
            ),
        )
    built, members = _compiled[key]
    return members.rebind(seeds, hparams), built


_compiled: dict[Any, tuple[program.Program, population.Population]] = {}


def forget() -> None:
    """Frees all programs."""
    _compiled.clear()


def train(cfg: config.ExperimentConfig, calls: tuple[int, ...] | None = None) -> Trained:
    """Trains in calls of the given numbers of updates; by default the complete plan in one call."""
    members, built = compiled(cfg)
    n_warm_up = built.plan.warm_up_collects
    states, _ = members.train(members.init(), members.empty_tallies(), -n_warm_up, n_warm_up)
    update, tallies = 0, members.empty_tallies()
    for n_updates in calls or (built.plan.n_updates,):
        states, tallies = members.train(states, tallies, update, n_updates)
        update += n_updates
    return Trained(
        members=members,
        program=built,
        states=states,
        parameters=members.parameters(states),
        evaluation=members.evaluate(states, update + n_warm_up),
        metrics=members.metrics(tallies),
    )


def leaves(tree: Any) -> list[np.ndarray]:
    """Leaves as numpy arrays, keys as their data."""
    is_key = lambda x: jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]


NEVER = train_step.NEVER
