"""Raw data in the format of marl-eval, for its plots and tables.

    environment -> task -> algorithm -> seed_k -> step_i -> {"step_count": env steps, metric: [x]}

`absolute_metrics` of a seed are those of its best evaluation (highest win rate, then return; the
first of equals). Deviation: the protocol evaluates the best parameters again on ten times as many
episodes. The best of many noisy evaluations is biased upwards; do not publish it as the absolute
metric.

Reference: Gorsane et al. 2022, Towards a standardised performance evaluation protocol for
cooperative MARL.
"""

from typing import Any

import numpy as np

from qmix_jax.reports import study

CAVEAT = (
    "absolute_metrics in marl_eval.json are each seed's best evaluation, not a new evaluation of "
    "the best parameters on ten times as many episodes: they are biased upwards"
)


def as_mapping(data: study.Study) -> dict[str, Any]:
    """Returns the content of `marl_eval.json`.

    marl-eval requires the same number of evaluations in all runs of an environment: longer runs
    are thinned evenly, from the first evaluation to the last. Each value is a list of one number,
    the mean over the evaluation's episodes.
    """
    mapping: dict[str, Any] = {}
    for task in data.tasks:
        env, name = _split(task.name)
        n_steps = min(
            len(result.steps)
            for other in data.tasks
            if _split(other.name)[0] == env
            for result in other.results.values()
        )
        mapping.setdefault(env, {})[name] = {
            _plain(label): {
                f"seed_{seed}": _run(result, i, n_steps) for i, seed in enumerate(result.seeds)
            }
            for label, result in task.results.items()
        }
    return mapping


def seed_warnings(data: study.Study) -> list[str]:
    """Returns a warning if settings have different numbers of seeds."""
    counts = {len(result.seeds) for task in data.tasks for result in task.results.values()}
    if len(counts) == 1:
        return []
    return [
        "marl-eval requires the same number of seeds in every setting; these have "
        f"{min(counts)} to {max(counts)}"
    ]


def _split(task: str) -> tuple[str, str]:
    """Returns environment and task: `SMAX/3m` is task 3m of SMAX; a name without slash is both."""
    env, _, name = task.partition("/")
    return _plain(env), _plain(name or env)


def _run(result: study.SettingResult, i: int, n_steps: int) -> dict[str, Any]:
    """Returns the evaluations of row i, thinned to `n_steps`."""
    chosen = np.arange(n_steps) * (len(result.steps) - 1) // max(n_steps - 1, 1)
    values = {name.removeprefix("eval/"): table[i] for name, table in result.values.items()}
    steps = {
        f"step_{number}": {
            "step_count": int(result.steps[k]),
            **{name: [float(row[k])] for name, row in values.items()},
        }
        for number, k in enumerate(chosen)
    }
    best = max(range(len(result.steps)), key=lambda k: tuple(row[k] for row in values.values()))
    return {**steps, "absolute_metrics": {name: [float(row[best])] for name, row in values.items()}}


def _plain(name: str) -> str:
    """Removes commas, which marl-eval takes for separators."""
    return name.replace(", ", " ").replace(",", " ")
