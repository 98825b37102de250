"""Stop rules: end a job at a score, without improvement, or after a time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qmix_jax import config
from qmix_jax.runs import jobs, scores
from qmix_jax.types import EnvSpec


class StopRules:
    """The stop rules of one job (`stop.*`), applied to its evaluations."""

    def __init__(self, rules: config.StopConfig, spec: EnvSpec) -> None:
        """`rules`: checked by `check`."""
        first, _ = scores.ranking(spec.best_metrics, spec.eval_metrics)[0]
        self.metric = rules.metric or f"eval/{first}"
        directions = {f"eval/{name}": direction for name, direction in spec.best_metrics}
        self._sign = -1 if directions.get(self.metric) == "min" else 1
        self._rules = rules
        self._value, self._best, self._since = math.nan, -math.inf, 0

    def update(self, results: Mapping[str, np.ndarray]) -> None:
        """Adds an evaluation, `eval/<name>` -> f32[P]; rules use the mean over members."""
        self._value = float(np.mean(results[self.metric], dtype=np.float64))
        better = self._sign * self._value > self._best
        self._since = 0 if better else self._since + 1
        self._best = self._sign * self._value if better else self._best

    def verdict(self, seconds: float) -> str | None:
        """Returns the rule that ends the job after `seconds` of training, if any."""
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
        """Returns the state for `restore`, as JSON."""
        return {"metric": self.metric, "seen": [self._value, self._best, self._since]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a snapshot, unless the metric has changed."""
        if state["metric"] == self.metric:
            self._value, self._best, self._since = state["seen"]


def check(rules: config.StopConfig, env: str, eval_metrics: Sequence[str]) -> None:
    """Checks stop rules against an environment.

    Args:
      env: name of the environment.
      eval_metrics: `Program.eval_metrics`.
    Raises: ConfigError for a metric that evaluations do not have, or that no rule uses.
    """
    if rules.metric is None:
        return
    known = tuple(f"eval/{metric}" for metric in eval_metrics)
    if rules.metric not in known:
        raise config.ConfigError(
            f"stop: unknown stop.metric={rules.metric!r} on {env}; "
            f"{config.suggest(rules.metric, known)}"
        )
    if rules.at is None and rules.patience is None:
        raise config.ConfigError(
            f"stop: no rule uses stop.metric={rules.metric}; set stop.at or stop.patience too"
        )


def check_slices(group: jobs.Group, spans: Sequence[tuple[int, int]]) -> None:
    """Raises: ConfigError if the members of a job with stop rules train in several slices."""
    slices = [{group.owners[member] for member in range(*span)} for span in spans]
    for i, job in enumerate(group.jobs):
        if sum(i in owners for owners in slices) > 1 and job.config.stop != config.StopConfig():
            raise config.ConfigError(
                "stop: stop rules use the mean over all members of a run, but they train in "
                "several slices because memory is short; leave stop.* null, lower seeds or raise "
                "population.memory"
            )
