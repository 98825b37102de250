"""The training loop: alternates one episode in every environment and K gradient steps."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.pytorch import jax_envs, networks, records, replay, rollout, spread
from benchmarks.pytorch import learner as learners


@dataclass(frozen=True)
class Settings:
    """A run.

    Attributes:
      env: `spread` (PettingZoo's, in worker processes), `smax` or `jaxmarl_spread` (compiled by
        JAX in this process).
      scenario: the SMAX map.
      max_cycles: steps per episode of `spread`; JaxMARL's true limit is 26.
      env_steps: minimum budget, warm-up and padding included.
      warm_up: minimum env steps before the first gradient step; at least `batch_size` episodes.
      n_envs: episodes per update.  n_workers: processes of `spread`.
      gradient_steps: K, per update.
      batch_size: episodes per gradient step.  capacity: stored episodes.
      epsilon_start, epsilon_end, epsilon_steps: linear over env steps, then constant.
      eval_every: minimum env steps between greedy evaluations; None: no evaluation.
      eval_episodes: per evaluation.
      seed: of networks, exploration, sampling and environments.
      threads: of PyTorch's operators.  device: `cpu` or `cuda`.
      widths: of the networks.  learner: loss and optimiser.
    Raises: ValueError for contradictory settings.
    """

    env: Literal["spread", "smax", "jaxmarl_spread"] = "spread"
    scenario: str = "3m"
    max_cycles: int = 25
    env_steps: int = 100_000
    warm_up: int = 5_000
    n_envs: int = 8
    n_workers: int = 2
    gradient_steps: int = 1
    batch_size: int = 32
    capacity: int = 4_000
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    epsilon_steps: int = 50_000
    eval_every: int | None = None
    eval_episodes: int = 32
    seed: int = 0
    threads: int = 1
    device: Literal["cpu", "cuda"] = "cpu"
    widths: networks.Widths = field(default_factory=networks.Widths)
    learner: learners.Config = field(default_factory=learners.Config)

    def __post_init__(self) -> None:
        multiples = {"n_workers": "n_envs"} if self.env == "spread" else {}
        for divisor, name in {**multiples, "n_envs": "capacity"}.items():
            self._check_multiple(name, divisor)
        if self.eval_every is not None:
            self._check_multiple("eval_episodes", "n_envs")
        if self.batch_size > self.capacity:
            raise ValueError(
                f"settings: batch_size={self.batch_size} exceeds capacity={self.capacity}; "
                "raise capacity or lower batch_size"
            )

    def _check_multiple(self, name: str, divisor: str) -> None:
        value, by = getattr(self, name), getattr(self, divisor)
        if value <= 0 or by <= 0 or value % by:
            raise ValueError(
                f"settings: {name}={value} is not a positive multiple of {divisor}={by}; "
                f"use {name}={max(1, round(value / max(by, 1))) * by}"
            )


class Timer:
    """Wall seconds by name; synchronises the device before reading the clock."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the seconds of the block."""
        start = self._now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class _Run:
    """State of a run.

    Attributes:
      totals: env steps so far.
      warm_up: env steps and seconds before the first gradient step.
      evaluations: a dictionary each.
    """

    def __init__(self, settings: Settings, envs: records.Environments) -> None:
        device = torch.device(settings.device)
        weights, exploration, sampling = _seeds(settings.seed, 3)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(weights)
            online = networks.QMIX(envs.spec, settings.widths).to(device)
        self.learner = learners.Learner(online, settings.learner)
        self.timer = Timer(device)
        self.totals = {"env_steps": 0, "valid_env_steps": 0}
        self.warm_up = {"env_steps": 0, "seconds": 0.0}
        self.evaluations: list[dict[str, float]] = []
        self._settings, self._envs, self._evaluation_due = settings, envs, 0
        self._replay = replay.Replay(envs.spec, settings.capacity, device)
        self._exploration = torch.Generator(device).manual_seed(exploration)
        self._sampling = torch.Generator().manual_seed(sampling)

    def update(self) -> None:
        """Collects an episode per environment; after the warm-up, takes K gradient steps."""
        settings, totals = self._settings, self.totals
        warm = totals["env_steps"] >= settings.warm_up
        warm = warm and self._replay.n_added >= settings.batch_size
        with self.timer.measure("train"):
            self._collect()
            if warm:
                self._learn()
        if not warm:
            seconds = self.timer.seconds["train"]
            self.warm_up = {"env_steps": totals["env_steps"], "seconds": seconds}

    def evaluate(self, last: bool = False) -> None:
        """Evaluates greedily if due, or at the end of the run; neither timed nor counted."""
        env_steps, every = self.totals["env_steps"], self._settings.eval_every
        if every is None or (env_steps < self._evaluation_due and not last):
            return
        self._evaluation_due = env_steps - env_steps % every + every
        rounds = self._settings.eval_episodes // self._envs.n_envs
        metrics = [self._rollout(0.0).metrics for _ in range(rounds)]
        means = {name: float(torch.cat([m[name] for m in metrics]).mean()) for name in metrics[0]}
        seconds = self.timer.seconds.get("train", 0.0)
        self.evaluations.append({"env_steps": env_steps, "seconds": seconds, **means})

    def _collect(self) -> None:
        with self.timer.measure("rollout"):
            collected = self._rollout(_epsilon(self._settings, self.totals["env_steps"]))
            self._replay.add(collected.episodes)
        self.totals["env_steps"] += collected.env_steps
        self.totals["valid_env_steps"] += collected.valid_env_steps

    def _learn(self) -> None:
        batch_size = self._settings.batch_size
        with self.timer.measure("update"):
            for _ in range(self._settings.gradient_steps):
                self.learner.update(self._replay.sample(batch_size, self._sampling))

    def _rollout(self, epsilon: float) -> rollout.Rollout:
        agent = self.learner.online.agent
        return rollout.collect(self._envs, agent, epsilon, self._exploration)


def _seeds(seed: int, n_streams: int) -> list[int]:
    """Returns independent seeds."""
    return np.random.SeedSequence(seed).generate_state(n_streams).tolist()


def _epsilon(settings: Settings, env_steps: int) -> float:
    fraction = min(1.0, env_steps / settings.epsilon_steps)
    return settings.epsilon_start + fraction * (settings.epsilon_end - settings.epsilon_start)


def run(settings: Settings) -> dict[str, Any]:
    """Starts the environments and trains.

    Returns:
      The result of `train`, and `start_seconds`, to start workers or compile environments.
    """
    start = time.perf_counter()
    with contextlib.closing(_environments(settings)) as envs:
        start_seconds = time.perf_counter() - start
        return {**train(settings, envs), "start_seconds": start_seconds}


def train(settings: Settings, envs: records.Environments) -> dict[str, Any]:
    """Trains on `n_envs` environments.

    Returns:
      env_steps: simulated, padding and warm-up included;  valid_env_steps: without padding.
      gradient_steps: number taken.
      seconds: wall time of training without evaluation; rollout_seconds and update_seconds are its
        parts.
      warm_up: env_steps and seconds before the first gradient step.
      curve: (env steps, mean greedy return) of every evaluation: before training, every
        `eval_every` env steps, and at the end.
      evaluations: the same as dictionaries, with the training time in seconds and the
        environment's metrics (`win_rate`).
    """
    with _threads(settings.threads):
        state = _Run(settings, envs)
        while state.totals["env_steps"] < settings.env_steps:
            state.evaluate()
            state.update()
        state.evaluate(last=True)
    seconds = state.timer.seconds
    return {
        **state.totals,
        "gradient_steps": state.learner.gradient_steps,
        "seconds": seconds["train"],
        "rollout_seconds": seconds["rollout"],
        "update_seconds": seconds.get("update", 0.0),
        "warm_up": state.warm_up,
        "curve": [(row["env_steps"], row["return"]) for row in state.evaluations],
        "evaluations": state.evaluations,
    }


def _environments(settings: Settings) -> records.Environments:
    n_envs, seed = settings.n_envs, settings.seed
    if settings.env == "spread":
        return spread.make(n_envs, settings.n_workers, seed, settings.max_cycles)
    options = {
        "smax": {"id": "HeuristicEnemySMAX", "scenario": settings.scenario},
        "jaxmarl_spread": {"id": "MPE_simple_spread_v3"},
    }
    device = torch.device(settings.device)
    return jax_envs.make("jaxmarl", options[settings.env], n_envs, seed, device)


@contextlib.contextmanager
def _threads(n_threads: int) -> Iterator[None]:
    """Sets PyTorch's number of threads, and restores it."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
