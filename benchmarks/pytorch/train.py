"""The training loop: one episode in every environment, then K gradient steps, again and again."""

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
      max_cycles: steps per episode of `spread`; 26 is JaxMARL's true number.
      env_steps: budget, at least; warm-up and padding count.
      warm_up: env steps collected without gradient steps, at least; and `batch_size` episodes, at
        least.
      n_envs: episodes per update.  n_workers: processes of `spread`.
      gradient_steps: K, per update.
      batch_size: episodes per gradient step.  capacity: episodes kept.
      epsilon_start, epsilon_end, epsilon_steps: linear over env steps, then constant.
      eval_every: env steps between greedy evaluations, at least; None = none.
      eval_episodes: per evaluation.
      seed: of networks, exploration, sampling and environments.
      threads: of PyTorch's operators.  device: `cpu` or `cuda`.
      widths: of the networks.  learner: loss and optimiser.
    Raises: ValueError for numbers that do not fit together.
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
                f"settings: {name}={value} is no positive multiple of {divisor}={by}; "
                f"try {name}={max(1, round(value / max(by, 1))) * by}"
            )


class Timer:
    """Wall seconds by name; a device's queue is emptied before the clock is read."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the seconds that the block takes."""
        begin = self._now()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - begin

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class _Run:
    """Everything that one run changes.

    Attributes:
      totals: env steps so far.
      warm_up: env steps and seconds before the first gradient step.
      evaluations: one dictionary each.
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
        """One episode per environment, then, after the warm-up, K gradient steps."""
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
        """Greedy episodes if they are due or the run is over, outside what is timed and counted."""
        env_steps, every = self.totals["env_steps"], self._settings.eval_every
        if every is None or (env_steps < self._evaluation_due and not last):
            return
        self._evaluation_due = env_steps - env_steps % every + every
        rounds = self._settings.eval_episodes // self._envs.n_envs
        seen = [self._rollout(0.0).metrics for _ in range(rounds)]
        means = {name: float(torch.cat([m[name] for m in seen]).mean()) for name in seen[0]}
        seconds = self.timer.seconds.get("train", 0.0)
        self.evaluations.append({"env_steps": env_steps, "seconds": seconds, **means})

    def _collect(self) -> None:
        with self.timer.measure("rollout"):
            seen = self._rollout(_epsilon(self._settings, self.totals["env_steps"]))
            self._replay.add(seen.episodes)
        self.totals["env_steps"] += seen.env_steps
        self.totals["valid_env_steps"] += seen.valid_env_steps

    def _learn(self) -> None:
        batch_size = self._settings.batch_size
        with self.timer.measure("update"):
            for _ in range(self._settings.gradient_steps):
                self.learner.update(self._replay.sample(batch_size, self._sampling))

    def _rollout(self, epsilon: float) -> rollout.Rollout:
        agent = self.learner.online.agent
        return rollout.collect(self._envs, agent, epsilon, self._exploration)


def _seeds(seed: int, n_streams: int) -> list[int]:
    """A seed for every kind of randomness, so that no two draw the same numbers."""
    return np.random.SeedSequence(seed).generate_state(n_streams).tolist()


def _epsilon(settings: Settings, env_steps: int) -> float:
    fraction = min(1.0, env_steps / settings.epsilon_steps)
    return settings.epsilon_start + fraction * (settings.epsilon_end - settings.epsilon_start)


def run(settings: Settings) -> dict[str, Any]:
    """Starts the environments and trains.

    Args:
      settings: of the run.
    Returns:
      What `train` returns, and start_seconds: of starting workers or compiling environments.
    """
    begin = time.perf_counter()
    with contextlib.closing(_environments(settings)) as envs:
        start_seconds = time.perf_counter() - begin
        return {**train(settings, envs), "start_seconds": start_seconds}


def train(settings: Settings, envs: records.Environments) -> dict[str, Any]:
    """Trains on environments that are ready.

    Args:
      settings: of the run.
      envs: `n_envs` of any kind.
    Returns:
      env_steps: simulated, padding and warm-up included;  valid_env_steps: without padding.
      gradient_steps: done.
      seconds: wall time of training without evaluation, of which rollout_seconds and
        update_seconds.
      warm_up: env_steps and seconds of the part before the first gradient step.
      curve: (env steps, mean greedy return) at every evaluation: before training, whenever
        `eval_every` env steps have passed, and at the end.
      evaluations: the same as dictionaries, with the training time in seconds and the
        environment's own metrics (`win_rate`).
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
    """Sets PyTorch's threads and restores their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
