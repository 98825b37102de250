"""Stop rules: when a job has learnt what it was to learn, or took as long as it was to take."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qmix_jax import config
from qmix_jax.runs import jobs, scores
from qmix_jax.types import EnvSpec


class StopRules:
    """The stop rules of one job (`stop.*`) and what they have seen of its evaluations."""

    def __init__(self, rules: config.StopConfig, spec: EnvSpec) -> None:
        """Nothing is seen yet; `rules` fit the environment, see `check`."""
        first, _ = scores.order(spec.best_metrics, spec.eval_metrics)[0]
        self.metric = rules.metric or f"eval/{first}"
        directions = {f"eval/{name}": direction for name, direction in spec.best_metrics}
        self._sign = -1 if directions.get(self.metric) == "min" else 1
        self._rules = rules
        self._value, self._best, self._since = math.nan, -math.inf, 0

    def see(self, results: Mapping[str, np.ndarray]) -> None:
        """Takes an evaluation, `eval/<name>` -> f32[P] of the job's members; their mean decides."""
        self._value = float(np.mean(results[self.metric], dtype=np.float64))
        better = self._sign * self._value > self._best
        self._since = 0 if better else self._since + 1
        self._best = max(self._best, self._sign * self._value) if better else self._best

    def verdict(self, seconds: float) -> str | None:
        """The rule that holds after so many seconds of training; None while none does."""
        rules, value, sign = self._rules, self._value, self._sign
        if rules.at is not None and sign * value >= sign * rules.at:
            return f"stop.at={rules.at:g}: {self.metric} is {value:.4g}"
        if rules.patience is not None and self._since >= rules.patience:
            return (
                f"stop.patience={rules.patience}: {self.metric} was never better than "
                f"{sign * self._best:.4g} for {self._since} evaluation(s)"
            )
        if rules.seconds is not None and seconds >= rules.seconds:
            return f"stop.seconds={rules.seconds:g}: trained for {seconds:.4g} s"
        return None

    def snapshot(self) -> dict[str, Any]:
        """What `restore` needs, as JSON takes it."""
        return {"metric": self.metric, "seen": [self._value, self._best, self._since]}

    def restore(self, seen: Mapping[str, Any]) -> None:
        """What `snapshot` gave; what was seen of another metric does not count."""
        if seen["metric"] == self.metric:
            self._value, self._best, self._since = seen["seen"]


def check(rules: config.StopConfig, name: str, eval_metrics: Sequence[str]) -> None:
    """Whether rules fit an environment.

    Args:
      name: the environment's.
      eval_metrics: what its evaluations measure, `Program.eval_metrics`.
    Raises: ConfigError for a metric that evaluations do not have, or that decides nothing.
    """
    if rules.metric is None:
        return
    known = tuple(f"eval/{metric}" for metric in eval_metrics)
    if rules.metric not in known:
        raise config.ConfigError(
            f"stop: unknown stop.metric={rules.metric!r} on {name}; "
            f"{config.suggest(rules.metric, known)}"
        )
    if rules.at is None and rules.patience is None:
        raise config.ConfigError(
            f"stop: stop.metric={rules.metric} decides nothing; set stop.at or stop.patience too"
        )


def check_slices(group: jobs.Group, spans: Sequence[tuple[int, int]]) -> None:
    """Raises: ConfigError for a job with stop rules whose members train in several slices."""
    parts = [{group.owners[member] for member in range(*span)} for span in spans]
    for i, job in enumerate(group.jobs):
        if sum(i in part for part in parts) > 1 and job.config.stop != config.StopConfig():
            raise config.ConfigError(
                "stop: the mean over a run's members decides, and where memory is short they train "
                "in several slices; leave stop.* null, lower seeds or raise population.memory"
            )
