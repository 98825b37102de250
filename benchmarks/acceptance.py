"""Checks learning results over more seeds than the tests use: `acceptance NAME`."""

import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

import qmix_jax
from benchmarks import cases, measure
from qmix_jax import config

_FEW = ("seeds=2", "trainer.env_steps=256", "trainer.warm_up=128", "eval.episodes=2")
"""Overrides of `--smoke`."""


class Claim(NamedTuple):
    """A measured figure and its bounds.

    Attributes:
      figure: description of the measurement, over all seeds.
      seeds: number of seeds.
      value: measured value.
      lower, upper: bounds of `value`.
    """

    figure: str
    seeds: int
    value: float
    lower: float = -np.inf
    upper: float = np.inf

    def row(self, case: str) -> measure.Row:
        """Returns a row of the table."""
        bounds = {"at least": self.lower, "at most": self.upper}
        bounds = {name: bound for name, bound in bounds.items() if np.isfinite(bound)}
        passed = bool(self.lower <= self.value <= self.upper)
        return {
            "case": case, "seeds": self.seeds, "figure": self.figure, "found": self.value,
            **bounds, "passed": passed,
        }  # fmt: skip


class Game(NamedTuple):
    """Required results in a two-agent game with known joint values.

    Attributes:
      overrides: of the configuration.
      expected_return: greedy return of every seed.
      table: exact table that the mean joint values approach (`lab.measure.exact_tables`).
      tolerance: largest deviation from the table, in units of reward.
    """

    overrides: tuple[str, ...]
    expected_return: float
    table: str | None = None
    tolerance: float = np.inf

    def claims(self, cfg: config.ExperimentConfig) -> Iterator[Claim]:
        """Trains and compares learnt with exact values."""
        with tempfile.TemporaryDirectory() as folder:
            (result,) = qmix_jax.run_lab({(cfg.env.name, cfg.algo.name): cfg}, folder).results
        expected = self.expected_return
        reached = result.reached.get(expected, 0)
        yield Claim(f"seeds with a return of {expected:g}", result.seeds, reached, result.seeds)
        if self.table is not None:
            error = max(point.errors[self.table] for point in result.points)
            figure = f"error of the {self.table} table"
            yield Claim(figure, result.seeds, error, upper=self.tolerance)


class Metric(NamedTuple):
    """Required mean of a metric over seeds and the last three evaluations.

    Attributes:
      overrides: of the configuration.
      metric: column of `metrics.csv`.
      lower: lower bound.
      above_random: lower bound of the difference to uniformly random play.
    """

    overrides: tuple[str, ...]
    metric: str
    lower: float
    above_random: float = 0.0

    def claims(self, cfg: config.ExperimentConfig) -> Iterator[Claim]:
        """Trains, and plays uniformly at random for comparison."""
        random = qmix_jax.baseline(cfg).metrics[self.metric.removeprefix("eval/")]
        with tempfile.TemporaryDirectory() as folder:
            metrics = qmix_jax.train(cfg, pathlib.Path(folder, "run")).metrics
        rows = metrics["kind"] == "eval"
        steps = np.unique(metrics["env_steps"][rows])[-3:]
        mean = float(np.mean(metrics[self.metric][rows & np.isin(metrics["env_steps"], steps)]))
        yield Claim(f"{self.metric}, last three", cfg.seeds, mean, lower=self.lower)
        gain = mean - float(np.mean(random))
        yield Claim("above random play", cfg.seeds, gain, lower=self.above_random)


class Bounded(NamedTuple):
    """Whether joint values diverge.

    Attributes:
      overrides: of the configuration.
      bound: of the mean joint value of the actions taken, in units of reward.
      stays: whether the values of all seeds stay within the bound, or exceed it.
    """

    overrides: tuple[str, ...]
    bound: float
    stays: bool

    def claims(self, cfg: config.ExperimentConfig) -> Iterator[Claim]:
        """Trains and compares the largest value of each seed with the bound."""
        with tempfile.TemporaryDirectory() as folder:
            metrics = qmix_jax.train(cfg, pathlib.Path(folder, "run")).metrics
        values = np.abs(metrics["train/q_taken"]) / cfg.hparams.reward_scale
        maxima = [np.nanmax(values[metrics["seed"] == seed]) for seed in np.unique(metrics["seed"])]
        bounds = {"upper": self.bound} if self.stays else {"lower": self.bound}
        worst = float(max(maxima) if self.stays else min(maxima))
        yield Claim("largest value of the seed nearest to the bound", cfg.seeds, worst, **bounds)


def _game(*overrides: str) -> tuple[str, ...]:
    return ("experiment=lab", *overrides)


_TWO_STEP = ("experiment=two_step", "seed=100", "seeds=16")
_SMALL_MIXER = ("algo.mixer.options.embed_dim=8", "algo.mixer.options.hypernet_layers=1")
_PQN = (
    "algo=pqn_qmix", "trainer=pqn", "env=two_step", "agent=mlp", *_SMALL_MIXER,
    "hparams.epsilon=1.0", "hparams.td_lambda=0.0", "hparams.reward_scale=1.0",
    "hparams.learning_rate={start: 5e-3, end: 2e-4, steps: 2500.0}", "replay.batch_size=16",
    "trainer.collector=segment", "trainer.window=null", "trainer.burn_in=0", "trainer.n_envs=32",
    "trainer.gradient_steps=4", "trainer.env_steps=40_000", "seed=100", "seeds=16",
)  # fmt: skip

_TWO_STATE = (  # long enough to diverge: each target update multiplies values by 1.24
    "experiment=mmdp", "hparams.target_period=20", "hparams.learning_rate=3e-3",
    "trainer.env_steps=400_000", "seed=100", "seeds=8",
)  # fmt: skip

CASES: dict[str, dict[str, Game | Metric | Bounded]] = {
    "two_step": {
        "qmix": Game((*_TWO_STEP, "algo=qmix"), 8.0, "optimal", 0.05),
        "qmix, bfloat16": Game((*_TWO_STEP, "algo=qmix", "precision=bfloat16"), 8.0),
        "vdn": Game((*_TWO_STEP, "algo=vdn"), 7.0, "additive", 0.15),
        "iql": Game((*_TWO_STEP, "algo=iql"), 7.0),
        "pqn_qmix": Game(_PQN, 8.0, "optimal", 0.1),
    },
    "matrix": {
        "iql, P2": Game(_game("algo=iql", "env.options.game=P2"), 12.0),
        "vdn, P2": Game(_game("algo=vdn", "env.options.game=P2"), 12.0),
        "qmix, P2": Game(_game("algo=qmix", "env.options.game=P2"), 12.0),
        "vdn, Q3": Game(_game("algo=vdn", "env.options.game=Q3"), 0.0, "additive", 0.5),
    },
    "two_state": {
        name: Bounded((*_TWO_STATE, f"algo={name}"), 150.0, stays)
        for name, stays in {
            "vdn": False, "qatten": False, "qplex": True, "qtran_base": True,
        }.items()
    },
    "rescue": {
        "rescue": Metric(
            (
                "experiment=custom", "env.name=examples.rescue", "agent=mlp", "hparams.gamma=0.95",
                "hparams.reward_scale=1.0", "hparams.learning_rate=1e-3",
                "hparams.epsilon={start: 1.0, end: 0.05, steps: 40000.0}",
                "trainer.env_steps=80_000", "trainer.warm_up=1_000", "trainer.n_envs=32",
                "trainer.gradient_steps=16", "eval.every=10_000", "eval.episodes=64", "seed=100",
                "seeds=8",
            ), "eval/win_rate", 0.5, 0.4,
        ),
    },
    "smax_3m": {
        "smax_3m": Metric(
            ("experiment=smax_3m", "seed=100", "seeds=4"), "eval/win_rate", 0.8, 0.5
        ),
    },
    "mpe_spread": {
        "mpe_spread": Metric(
            ("experiment=mpe_spread", "seed=100", "seeds=4"), "eval/return", -62.0, 20.0
        ),
    },
}  # fmt: skip
"""NAME -> case -> configuration and required result."""


def run(options: measure.Options) -> int:
    """Prints every figure of a NAME with its bounds; returns 1 if one is out of bounds.

    Raises: ConfigError for an unknown NAME.
    """
    name, overrides = _parse(options)
    selected = list(CASES[name].items())[: 1 if options.smoke else None]
    rows = [
        claim.row(case)
        for case, required in selected
        for claim in required.claims(cases.load((*required.overrides, *overrides)))
    ]
    measure.report("acceptance", rows, options, [f"acceptance {name}"])
    return 0 if options.smoke or all(row["passed"] for row in rows) else 1


def _parse(options: measure.Options) -> tuple[str, Sequence[str]]:
    """(NAME, overrides)."""
    if options.smoke and not options.overrides:
        return "two_step", _FEW
    name, *overrides = options.overrides or ("",)
    if name not in CASES:
        suggestion = config.suggest(name, CASES)
        raise config.ConfigError(f"acceptance: unknown NAME {name!r}; {suggestion}")
    return name, (*overrides, *_FEW) if options.smoke else overrides
