"""The raw-data format of marl-eval, for its own plots and tables.

    environment -> task -> algorithm -> seed_k -> step_i -> {"step_count": env steps, metric: [x]}

`absolute_metrics` of a seed are those of its best evaluation (highest win rate, then return; of
equals the first). The protocol asks for more: the best parameters evaluated again on ten times as
many episodes. That is not done here, and the best of many noisy evaluations is too high; do not
publish it as the absolute metric.

Reference: Gorsane et al. 2022, Towards a standardised performance evaluation protocol for
cooperative MARL.
"""

from typing import Any

import numpy as np

from qmix_jax.reports import study

CAVEAT = (
    "absolute_metrics in marl_eval.json are each seed's best evaluation, not a new evaluation of "
    "the best parameters on ten times as many episodes: they are too high"
)


def as_mapping(found: study.Study) -> dict[str, Any]:
    """The content of `marl_eval.json`.

    marl-eval wants as many evaluations of each run of an environment: where some have more, they
    are thinned evenly, the first and the last kept. Each value is a list of one number, the mean
    over the evaluation's episodes.
    """
    result: dict[str, Any] = {}
    for task in found.tasks:
        env, name = split(task.name)
        fewest = min(
            len(cell.steps)
            for other in found.tasks
            if split(other.name)[0] == env
            for cell in other.cells.values()
        )
        result.setdefault(env, {})[name] = {
            _plain(label): {
                f"seed_{seed}": _run(cell, i, fewest) for i, seed in enumerate(cell.seeds)
            }
            for label, cell in task.cells.items()
        }
    return result


def note(found: study.Study) -> str:
    """What marl-eval will not like about the data; empty if nothing."""
    counts = {len(cell.seeds) for task in found.tasks for cell in task.cells.values()}
    if len(counts) == 1:
        return ""
    return (
        f"marl-eval wants the same number of seeds in every setting; here there are "
        f"{min(counts)} to {max(counts)}"
    )


def split(task: str) -> tuple[str, str]:
    """`HeuristicEnemySMAX/3m` is the task 3m of an environment; a name alone is both."""
    env, _, name = task.partition("/")
    return _plain(env), _plain(name or env)


def _run(cell: study.SettingResult, i: int, fewest: int) -> dict[str, Any]:
    """The evaluations of row i, thinned to the fewest that any run has."""
    chosen = np.arange(fewest) * (len(cell.steps) - 1) // max(fewest - 1, 1)
    values = {name.removeprefix("eval/"): table[i] for name, table in cell.values.items()}
    steps = {
        f"step_{number}": {
            "step_count": int(cell.steps[k]),
            **{name: [float(row[k])] for name, row in values.items()},
        }
        for number, k in enumerate(chosen)
    }
    best = max(range(len(cell.steps)), key=lambda k: tuple(row[k] for row in values.values()))
    absolute = {name: [float(row[best])] for name, row in values.items()}
    return {**steps, "absolute_metrics": absolute}


def _plain(name: str) -> str:
    """marl-eval takes commas in names for separators."""
    return name.replace(", ", " ").replace(",", " ")
