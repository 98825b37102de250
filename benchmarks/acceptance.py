"""What learning must reach, over more seeds than the tests have: `acceptance NAME`."""

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
    """A figure and what it must be: at least `least` and at most `most`.

    Attributes:
      figure: what was measured, over all seeds.
      seeds: how many.
      found: its value.
    """

    figure: str
    seeds: int
    found: float
    least: float = -np.inf
    most: float = np.inf

    def row(self, case: str) -> measure.Row:
        """A line of the table."""
        bounds = {"at least": self.least, "at most": self.most}
        given = {name: bound for name, bound in bounds.items() if np.isfinite(bound)}
        passed = bool(self.least <= self.found <= self.most)
        return {
            "case": case, "seeds": self.seeds, "figure": self.figure, "found": self.found,
            **given, "passed": passed,
        }  # fmt: skip


class Game(NamedTuple):
    """What an algorithm must learn of a game of two agents whose joint values are known.

    Attributes:
      overrides: of the configuration.
      returned: greedy return of every seed.
      table: which exact table the mean joint values approach (`laboratory.measure.exact_tables`).
      within: largest deviation from it, in units of reward.
    """

    overrides: tuple[str, ...]
    returned: float
    table: str | None = None
    within: float = np.inf

    def claims(self, cfg: config.ExperimentConfig) -> Iterator[Claim]:
        """Trains, and compares what was learnt with what is exact."""
        with tempfile.TemporaryDirectory() as folder:
            (cell,) = qmix_jax.run_lab({(cfg.env.name, cfg.algo.name): cfg}, folder).cells
        reached = cell.reached.get(self.returned, 0)
        yield Claim(f"seeds with a return of {self.returned:g}", cell.seeds, reached, cell.seeds)
        if self.table is not None:
            error = max(point.errors[self.table] for point in cell.points)
            yield Claim(f"error of the {self.table} table", cell.seeds, error, most=self.within)


class Metric(NamedTuple):
    """What a metric must come to, in the mean over seeds and over the last three evaluations.

    Attributes:
      overrides: of the configuration.
      metric: column of `metrics.csv`.
      least: what it must come to.
      above_random: what it must exceed the same metric of uniformly random play by.
    """

    overrides: tuple[str, ...]
    metric: str
    least: float
    above_random: float = 0.0

    def claims(self, cfg: config.ExperimentConfig) -> Iterator[Claim]:
        """Trains, and plays at random beside it."""
        played = qmix_jax.baseline(cfg).metrics[self.metric.removeprefix("eval/")]
        with tempfile.TemporaryDirectory() as folder:
            metrics = qmix_jax.train(cfg, pathlib.Path(folder, "run")).metrics
        rows = metrics["kind"] == "eval"
        steps = np.unique(metrics["env_steps"][rows])[-3:]
        found = np.mean(metrics[self.metric][rows & np.isin(metrics["env_steps"], steps)])
        yield Claim(f"{self.metric}, last three", cfg.seeds, float(found), least=self.least)
        gained = float(found - np.mean(played))
        yield Claim("above random play", cfg.seeds, gained, least=self.above_random)


class Bounded(NamedTuple):
    """Whether joint values stay within a bound that they need not exceed.

    Attributes:
      overrides: of the configuration.
      bound: of the mean joint value of the actions taken, in units of reward.
      stays: whether the values of every seed stay within it, or those of every seed do not.
    """

    overrides: tuple[str, ...]
    bound: float
    stays: bool

    def claims(self, cfg: config.ExperimentConfig) -> Iterator[Claim]:
        """Trains, and takes each seed's largest value."""
        with tempfile.TemporaryDirectory() as folder:
            metrics = qmix_jax.train(cfg, pathlib.Path(folder, "run")).metrics
        values = np.abs(metrics["train/q_taken"]) / cfg.hparams.reward_scale
        most = [np.nanmax(values[metrics["seed"] == seed]) for seed in np.unique(metrics["seed"])]
        bounds = {"most": self.bound} if self.stays else {"least": self.bound}
        worst = max(most) if self.stays else min(most)
        yield Claim("largest value of the seed that is nearest", cfg.seeds, float(worst), **bounds)


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
"""NAME -> case -> what is trained, and what it must reach."""


def run(options: measure.Options) -> int:
    """Prints every figure of a NAME beside what it must be; 1 where one is not.

    Raises: ConfigError for a NAME that is not known.
    """
    name, overrides = _chosen(options)
    chosen = list(CASES[name].items())[: 1 if options.smoke else None]
    rows = [
        claim.row(case)
        for case, wanted in chosen
        for claim in wanted.claims(cases.load((*wanted.overrides, *overrides)))
    ]
    notes = [f"acceptance {name}"]
    measure.report("acceptance", rows, options, notes)
    return 0 if options.smoke or all(row["passed"] for row in rows) else 1


def _chosen(options: measure.Options) -> tuple[str, Sequence[str]]:
    if options.smoke and not options.overrides:
        return "two_step", _FEW
    name, *overrides = options.overrides or ("",)
    if name not in CASES:
        suggestion = config.suggest(name, CASES)
        raise config.ConfigError(f"acceptance: {name!r} is no NAME; {suggestion}")
    return name, (*overrides, *_FEW) if options.smoke else overrides
