"""The outcome of training a job's members."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from qmix_jax.runs import parameters

_PREFIX = "outcomes/"


class NonFiniteError(RuntimeError):
    """A member's loss or gradient was not finite; every file is written, the member's last finite
    parameters among them.
    """


@dataclasses.dataclass
class Outcome:
    """The outcome of training a job's members.

    Attributes:
      parameters, best_parameters: numpy trees [P, ...]: at the end (of a frozen member: before it
        failed), and at each member's best evaluation.
      update, env_steps: updates and env steps done.
      train_s, eval_s: wall seconds.
      interrupted: ended early by a signal or by `Session.stop`.
      failures: member -> what was not finite and when; such a member is frozen, others are not.
      pruned: ended early by successive halving.
      stopped: the stop rule that ended it, None where none did.
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

    def numbers(self) -> dict[str, Any]:
        """All but the arrays, as JSON takes it."""
        arrays = ("parameters", "best_parameters")
        names = [field.name for field in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if name not in arrays}

    @classmethod
    def made_of(cls, numbers: Mapping[str, Any], final: Any, best: Any) -> "Outcome":
        """From `numbers`, as JSON gives them back, and the parameters."""
        failures = {int(member): text for member, text in numbers["failures"].items()}
        return cls(final, best, **{**numbers, "failures": failures})


class WallTime(NamedTuple):
    """Wall seconds that a group took."""

    compile_s: float
    train_s: float
    eval_s: float


def join(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a job whose members trained one part after another."""
    first, *others = outcomes
    if not others:
        return first

    def rows(name: str) -> Any:
        trees = [getattr(outcome, name) for outcome in outcomes]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *trees)

    failures, members = {}, 0
    for outcome in outcomes:
        failures |= {members + member: text for member, text in outcome.failures.items()}
        members += len(jax.tree.leaves(outcome.parameters)[0])
    return dataclasses.replace(
        first,
        parameters=rows("parameters"),
        best_parameters=rows("best_parameters"),
        update=min(outcome.update for outcome in outcomes),
        env_steps=min(outcome.env_steps for outcome in outcomes),
        train_s=sum(outcome.train_s for outcome in outcomes),
        eval_s=sum(outcome.eval_s for outcome in outcomes),
        interrupted=any(outcome.interrupted for outcome in outcomes),
        failures=failures,
    )


def pack(
    chosen: Mapping[int, Outcome],
) -> tuple[dict[int, dict[str, Any]], dict[str, np.ndarray]]:
    """Outcomes by number as a checkpoint holds them: what JSON has, and arrays by name."""
    arrays = {
        f"{_PREFIX}{number}/{which}/{name}": values
        for number, outcome in chosen.items()
        for which, tree in (("final", outcome.parameters), ("best", outcome.best_parameters))
        for name, values in parameters.flatten(tree).items()
    }
    return {number: outcome.numbers() for number, outcome in chosen.items()}, arrays


def unpack(
    numbers: Mapping[str, Mapping[str, Any]], arrays: Mapping[str, np.ndarray]
) -> dict[int, Outcome]:
    """What `pack` gave, among other arrays."""
    trees = parameters.nest(parameters.below(_PREFIX, arrays))
    return {
        int(number): Outcome.made_of(reached, trees[number]["final"], trees[number]["best"])
        for number, reached in numbers.items()
    }
