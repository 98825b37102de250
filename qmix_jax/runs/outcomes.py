"""Outcomes of training, before they become a run's final files and `Result`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from qmix_jax.runs import parameters

_PREFIX = "outcomes/"
_TREES = {"parameters": "final", "best_parameters": "best"}
"""Array fields of an `Outcome` -> their names in a checkpoint."""


class NonFiniteError(RuntimeError):
    """A member's loss or gradient was not finite. All files are written, with the last finite
    parameters of that member.
    """


@dataclasses.dataclass
class Outcome:
    """Outcome of training the members of a job.

    Attributes:
      parameters, best_parameters: numpy trees [P, ...]: the last ones (the last finite ones of a
        frozen member), and those of each member's best evaluation.
      update, env_steps: updates and env steps done.
      train_s, eval_s: wall seconds.
      interrupted: ended early by a signal or by `Session.stop`.
      failures: frozen member -> which metric was not finite, and when.
      pruned: ended early by successive halving.
      stopped: the stop rule that ended it, if any.
    """

    parameters: Any
    best_parameters: Any
    update: int
    env_steps: int
    train_s: float
    eval_s: float
    interrupted: bool
    failures: dict[int, str]
    pruned: bool = False
    stopped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields except the arrays."""
        names = [field.name for field in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if name not in _TREES}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], final: Any, best: Any) -> "Outcome":
        """Rebuilds an outcome from `to_json`, read back, and its parameters."""
        failures = {int(member): text for member, text in fields["failures"].items()}
        return cls(final, best, **{**fields, "failures": failures})


class WallTime(NamedTuple):
    """Wall seconds of a group."""

    compile_s: float
    train_s: float
    eval_s: float


def concatenate(outcomes: Sequence[Outcome]) -> Outcome:
    """Concatenates the outcomes of a job whose members trained in parts, in order."""
    first, *others = outcomes
    if not others:
        return first

    def stack(name: str) -> Any:
        trees = [getattr(outcome, name) for outcome in outcomes]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *trees)

    failures, n_members = {}, 0
    for outcome in outcomes:
        failures |= {n_members + member: text for member, text in outcome.failures.items()}
        n_members += len(jax.tree.leaves(outcome.parameters)[0])
    return dataclasses.replace(
        first,
        parameters=stack("parameters"),
        best_parameters=stack("best_parameters"),
        update=min(outcome.update for outcome in outcomes),
        env_steps=min(outcome.env_steps for outcome in outcomes),
        train_s=sum(outcome.train_s for outcome in outcomes),
        eval_s=sum(outcome.eval_s for outcome in outcomes),
        interrupted=any(outcome.interrupted for outcome in outcomes),
        failures=failures,
    )


def pack(
    outcomes: Mapping[int, Outcome],
) -> tuple[dict[int, dict[str, Any]], dict[str, np.ndarray]]:
    """Splits outcomes, number -> outcome, into JSON fields and named arrays for a checkpoint."""
    arrays = {
        f"{_PREFIX}{number}/{key}/{name}": values
        for number, outcome in outcomes.items()
        for field, key in _TREES.items()
        for name, values in parameters.flatten(getattr(outcome, field)).items()
    }
    return {number: outcome.to_json() for number, outcome in outcomes.items()}, arrays


def unpack(
    fields: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
) -> dict[int, Outcome]:
    """Inverts `pack`; `arrays` may contain others."""
    trees = parameters.nest(parameters.below(_PREFIX, arrays))
    return {
        int(number): Outcome.from_json(values, trees[number]["final"], trees[number]["best"])
        for number, values in fields.items()
    }
