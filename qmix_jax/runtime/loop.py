"""The host loop: times the compiled programs, evaluates, and writes rows. It computes nothing."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import plan, population, train_step
from qmix_jax.runtime import best, progress, sinks

_CALL_SECONDS = 4.0
"""What one compiled call should last: long enough to hide its cost, short enough for Ctrl-C."""

_NUMBERS = ("update", "passed", "row_update", "row_s", "row_steps", "train_s", "eval_s")
"""Numbers of a run in progress that go into a snapshot as they are."""


class NonFiniteError(RuntimeError):
    """A member's loss or gradient was not finite; every file is written, the member's last finite
    parameters among them.
    """


class Snapshot(NamedTuple):
    """A run in progress: what JSON has, and arrays [P, ...] by name."""

    numbers: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclasses.dataclass
class Outcome:
    """What a run came to.

    Attributes:
      parameters, best_parameters: numpy trees [P, ...]: at the end (of a frozen member: before it
        failed), and at each member's best evaluation.
      update, env_steps: updates and env steps done.
      train_s, eval_s: wall seconds.
      interrupted: ended early by Ctrl-C.
      failures: member -> what was not finite and when; such a member is frozen, the others go on.
      pruned: ended early by successive halving.
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

    def of(self, first: int, last: int, pruned: bool = False) -> "Outcome":
        """The outcome of members `first` up to, not including, `last`; `pruned`: ended here."""

        def rows(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: leaf[first:last], tree)

        return dataclasses.replace(
            self,
            parameters=rows(self.parameters),
            best_parameters=rows(self.best_parameters),
            failures={k - first: v for k, v in self.failures.items() if first <= k < last},
            interrupted=self.interrupted and not pruned,
            pruned=pruned,
        )


def join(outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of members that trained one slice after another."""
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
    return Outcome(
        parameters=rows("parameters"),
        best_parameters=rows("best_parameters"),
        update=min(outcome.update for outcome in outcomes),
        env_steps=min(outcome.env_steps for outcome in outcomes),
        train_s=sum(outcome.train_s for outcome in outcomes),
        eval_s=sum(outcome.eval_s for outcome in outcomes),
        interrupted=any(outcome.interrupted for outcome in outcomes),
        failures=failures,
    )


class Run:
    """One run in progress: where the states, the files and the display meet."""

    def __init__(
        self,
        members: population.Population,
        arithmetic: plan.Plan,
        seeds: Sequence[int],
        files: sinks.Rows,
        display: progress.Progress,
        interrupted: Callable[[], bool],
        first: int = 0,
        save: Callable[["Run", bool], None] = lambda run, last: None,
    ) -> None:
        """Everything is made by the caller; `files` gets one row per member at a time,
        `interrupted` is asked between compiled calls, and messages count members from `first`.
        `save(run, last)` is called where `snapshot` is whole: every few seconds, and with `last`
        when the run ends, early or not.
        """
        self._members = members
        self._plan = arithmetic
        self._seeds = seeds
        self._files = files
        self._display = display
        self._interrupted = interrupted
        self._save = save
        self._update = -arithmetic.warm_up_collects
        self._started = time.perf_counter()
        self._train_s = self._eval_s = 0.0
        self._row_s = self._row_steps = 0.0
        self._row_update = self._passed = 0
        self._per_update_s = 0.0
        self._states: population.Rounds = ()
        self._tallies: population.Rounds = ()
        self._numbers: Sequence[int] = range(first, first + len(seeds))
        self._best = best.Best(len(seeds))
        self._failures: dict[int, str] = {}

    @property
    def update(self) -> int:
        """Updates done; negative while the replay fills."""
        return self._update

    @property
    def ended(self) -> bool:
        """Whether the plan is done."""
        return self._update == self._plan.n_updates

    def begin(self) -> None:
        """Makes the members, evaluates them untrained, and fills the replay."""
        self._states = self._members.init()
        self._tallies = self._members.empty_tallies()
        _wait(self._states)
        self._evaluate()
        self._warm_up()

    def resume(self, numbers: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on where `snapshot` was taken, instead of `begin`.

        Raises:
          ValueError: it is of another program.
        """
        self._states, self._tallies = self._members.restore(arrays)
        self._best.restore(numbers["best_scores"], arrays)
        self._failures = {int(member): text for member, text in numbers["failures"].items()}
        for name in _NUMBERS:
            setattr(self, f"_{name}", numbers[name])
        self._numbers = numbers["members"]
        self._started = time.perf_counter() - numbers["elapsed_s"]
        self._show()
        if self._update < 0:
            self._warm_up()

    def refill(self, members: population.Population, first: int, n_collects: int) -> None:
        """Collects the replay anew, for a snapshot without it; a signal ends that too.

        Args:
          members: the same ones, exploring as they are to.
          first: index of the first collect, negative, so that nothing is learnt.
        """
        n_done = 0
        while n_done < n_collects and not self._interrupted():
            length = min(self._call_length(), n_collects - n_done)
            started = time.perf_counter()
            tallies = members.empty_tallies()
            self._states, _ = members.train(self._states, tallies, first + n_done, length)
            _wait(self._states)
            self._per_update_s = (time.perf_counter() - started) / length
            n_done += length
        self._per_update_s = 0.0

    def snapshot(self, with_replay: bool) -> Snapshot:
        """All there is to go on from; see `resume`."""
        stored = self._plan.stored_at(self._update) if with_replay else 0
        best_scores, best_arrays = self._best.snapshot()
        return Snapshot(
            numbers={
                **{name: getattr(self, f"_{name}") for name in _NUMBERS},
                "members": list(self._numbers),
                "elapsed_s": time.perf_counter() - self._started,
                "best_scores": best_scores,
                "failures": dict(self._failures),
            },
            arrays={
                **self._members.snapshot(self._states, self._tallies, stored),
                **best_arrays,
            },
        )

    def proceed(self, last: int) -> None:
        """Trains up to update `last`, one of the plan's stops, or to an interruption."""
        for stop in self._plan.stops():
            if stop < self._update or not self._passed < stop <= last:
                continue
            if self._all_failed() and self._update <= self._passed:
                return
            self._advance(stop)
            cut = self._interrupted() and not self.ended
            ending = cut or self._all_failed() or self.ended
            if cut:
                self._save(self, True)  # before a row that an uninterrupted run would not have
            if (ending or stop % self._plan.log_every == 0) and self._update > self._row_update:
                self._write_train_row()
            if cut:
                return
            if ending or stop % self._plan.eval_every == 0:
                self._evaluate()
            self._passed = stop
            self._save(self, ending)
            if ending:
                return

    def narrow(
        self, keep: Sequence[int], members: population.Population, files: sinks.Rows
    ) -> None:
        """Goes on with fewer members, each exactly where it was.

        Args:
          keep: positions of those that stay.
          members: the compiled population of these.
          files: where their rows go.
        """
        self._states, self._tallies = members.adopt(self._states, self._tallies, keep)
        self._members, self._files = members, files
        self._best.narrow(keep)
        self._failures = {
            i: self._failures[member] for i, member in enumerate(keep) if member in self._failures
        }
        self._seeds = [self._seeds[member] for member in keep]
        self._numbers = [self._numbers[member] for member in keep]

    def outcome(self) -> Outcome:
        """What the members came to so far."""
        return Outcome(
            parameters=self._members.parameters(self._states),
            best_parameters=self._best.parameters,
            update=max(self._update, 0),
            env_steps=self._plan.env_steps_at(self._update),
            train_s=self._train_s,
            eval_s=self._eval_s,
            interrupted=not self.ended and not self._all_failed(),
            failures=dict(self._failures),
        )

    def _warm_up(self) -> None:
        """Fills the replay; its speed says nothing of training, and its metrics are nobody's."""
        self._advance(0)
        self._tallies = self._members.empty_tallies()
        self._per_update_s = self._row_s = self._row_steps = 0.0

    def _advance(self, stop: int) -> None:
        """Runs up to update `stop` in calls of a few seconds."""
        while self._update < stop and not self._stopped():
            n_updates = min(self._call_length(), stop - self._update)
            started = time.perf_counter()
            self._states, self._tallies = self._members.train(
                self._states, self._tallies, self._update, n_updates
            )
            _wait((self._states, self._tallies))
            seconds = time.perf_counter() - started
            self._update += n_updates
            self._per_update_s = seconds / n_updates
            self._train_s += seconds
            self._row_s += seconds
            self._row_steps += n_updates * self._plan.steps_per_update * len(self._seeds)
            self._note_failures()
            self._show()
            if self._update < stop:
                self._save(self, False)

    def _call_length(self) -> int:
        """Updates of the next call; the first one is short, for its speed is not known."""
        if not self._per_update_s:
            return 1
        return max(1, int(_CALL_SECONDS / self._per_update_s))

    def _all_failed(self) -> bool:
        return len(self._failures) == len(self._seeds)

    def _stopped(self) -> bool:
        return self._interrupted() or self._all_failed()

    def _note_failures(self) -> None:
        firsts = self._members.metrics(self._tallies).first_nonfinite
        for member, seed in enumerate(self._seeds):
            metric = min(sorted(firsts, reverse=True), key=lambda name: firsts[name][member])
            update = int(firsts[metric][member])
            if update == train_step.NEVER or member in self._failures:
                continue
            self._failures[member] = (
                f"{metric} of seed {seed} (member {self._numbers[member]}) is not finite at update "
                f"{update} (env step {self._plan.env_steps_at(update):,}); it is frozen as it was "
                "before; lower hparams.learning_rate or hparams.max_grad_norm"
            )
            self._display.note(self._failures[member])

    def _write_train_row(self) -> None:
        totals = self._members.metrics(self._tallies).totals
        speed = self._row_steps / self._row_s
        columns = {
            name: np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
            for name, (total, count) in totals.items()
        }
        self._write("train", {**columns, "perf/env_steps_per_s": np.full(len(self._seeds), speed)})
        self._row_update, self._row_s, self._row_steps = self._update, 0.0, 0.0
        self._tallies = self._members.empty_tallies()

    def _evaluate(self) -> None:
        started = time.perf_counter()
        index = self._update + self._plan.warm_up_collects
        results = self._members.evaluate(self._states, index)
        self._eval_s += time.perf_counter() - started
        self._write("eval", {f"eval/{name}": values for name, values in results.items()})
        self._best.see(results, self._members.parameters(self._states))
        self._show(results)

    def _write(self, kind: str, columns: dict[str, np.ndarray]) -> None:
        update = max(self._update, 0)
        place = {
            "kind": kind,
            "env_steps": self._plan.env_steps_at(self._update),
            "update": update,
            "gradient_step": update * self._plan.gradient_steps,
            "time_s": time.perf_counter() - self._started,
        }
        self._files.write(
            {**place, "seed": seed, **{name: values[i] for name, values in columns.items()}}
            for i, seed in enumerate(self._seeds)
        )

    def _show(self, results: dict[str, np.ndarray] | None = None) -> None:
        scores = results or {}
        steps = self._plan.steps_per_update * len(self._seeds)
        self._display.update(
            env_steps=self._plan.env_steps_at(self._update),
            total=self._plan.env_steps,
            steps_per_s=steps / self._per_update_s if self._per_update_s else 0.0,
            eta_s=self._eta_s(),
            returns=scores.get("return"),
            win_rates=scores.get("win_rate"),
        )

    def _eta_s(self) -> float:
        known = self._per_update_s and self._update > 0
        remaining = self._plan.n_updates - self._update
        return remaining * self._per_update_s if known or not remaining else float("nan")


def columns(program_metrics: Sequence[str], eval_metrics: Sequence[str]) -> tuple[str, ...]:
    """All metric columns of `metrics.csv`.

    Args:
      program_metrics: names in a tally.
      eval_metrics: `Program.eval_metrics`.
    """
    evaluated = [f"eval/{name}" for name in eval_metrics]
    return tuple(evaluated + sorted(program_metrics) + ["perf/env_steps_per_s", "time_s"])


def _wait(tree: Any) -> None:
    """Waits for device work in short naps, so that Ctrl-C is heard at once."""
    leaves = [x for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    while not all(leaf.is_ready() for leaf in leaves):
        time.sleep(0.01)
    jax.block_until_ready(tree)
