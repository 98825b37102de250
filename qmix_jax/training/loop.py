"""Members of a group in training: compiled calls, and the rows and evaluations between them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax import population, train_step
from qmix_jax.console import progress
from qmix_jax.core import schedules
from qmix_jax.runs import jobs, outcomes, scores, storage
from qmix_jax.training import best, stopping

_CALL_SECONDS = 4.0
"""What one compiled call should last: long enough to hide its cost, short enough for Ctrl-C."""

_NUMBERS = (
    "update", "passed", "evaluated", "row_update", "row_s", "row_steps", "train_s", "eval_s",
)  # fmt: skip
"""Numbers that go into a snapshot as they are."""


class Snapshot(NamedTuple):
    """Members in training: what JSON has, and arrays [P, ...] by name."""

    numbers: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Training:
    """Members of a group in training: their states, best parameters and rows.

    Attributes:
      span: the members that began together: from, and up to but not including.
      members: positions in the group of those that still train.
    """

    def __init__(
        self,
        group: jobs.Group,
        span: tuple[int, int],
        files: Sequence[storage.RowWriter],
        display: progress.Progress,
    ) -> None:
        """`files` take the rows of each job of the group; follow with `begin` or `restore`."""
        self._group, self._plan = group, group.program.plan
        self._files, self._display = files, display
        self.span, self.members = span, list(range(*span))
        self._population: population.Population
        self._states: population.Rounds = ()
        self._tallies: population.Rounds = ()
        self._stops = self._plan.stops()
        self._update = -self._plan.warm_up_collects
        self._started = time.perf_counter()
        self._train_s = self._eval_s = 0.0
        self._row_s = self._row_steps = 0.0
        self._row_update = self._passed = 0
        self._evaluated = self._update
        self._per_update_s = 0.0
        spec = group.program.spec
        order = scores.order(spec.best_metrics, spec.eval_metrics)
        self._best = best.BestParameters(len(self.members), order)
        self._watches = {i: stopping.StopRules(group.jobs[i].config.stop, spec) for i in self.jobs}
        self._failures: dict[int, str] = {}

    @property
    def update(self) -> int:
        """Updates done; negative while the replay fills."""
        return self._update

    @property
    def env_steps(self) -> int:
        """Env steps of each member, warm-up included."""
        return self._plan.env_steps_at(self._update)

    @property
    def seconds(self) -> tuple[float, float]:
        """Wall seconds of training and of evaluation."""
        return self._train_s, self._eval_s

    @property
    def jobs(self) -> list[int]:
        """Positions in the group of the jobs that still train."""
        owners = self._group.owners
        return list(dict.fromkeys(owners[member] for member in self.members))

    @property
    def ended(self) -> bool:
        """Whether the plan is done."""
        return self._update == self._plan.n_updates

    @property
    def stopped(self) -> bool:
        """Whether a stop rule of each job that still trains holds, the warm-up apart."""
        if self._update <= 0 and self._evaluated != self._update:
            return False
        return all(self._watches[i].verdict(self._train_s) for i in self.jobs)

    @property
    def ending(self) -> bool:
        """Whether there is nothing left to do."""
        failed = all(member in self._failures for member in self.members)
        return self.ended or failed or self.stopped

    def verdicts(self) -> dict[int, str]:
        """The stop rule of each job for which one held at the evaluation just made."""
        if self.ended or self._evaluated != self._update:
            return {}
        found = {i: self._watches[i].verdict(self._train_s) for i in self.jobs}
        return {i: verdict for i, verdict in found.items() if verdict}

    def done(self, until: int) -> bool:
        """Whether update `until` is reached, with all that is due there."""
        return (
            not self.members
            or (self.ending and self._update <= self._passed)
            or (self._update >= 0 and self._next_stop(until) is None)
        )

    def begin(self, members: population.Population) -> None:
        """Makes the members and evaluates them untrained."""
        self._population = members
        self._states = members.init()
        self._tallies = members.empty_tallies()
        _wait(self._states)
        self._evaluate()

    def step(self, until: int, stopping: Callable[[], bool]) -> None:
        """Makes one compiled call, and what is due at the update that it reaches.

        Args:
          until: one of the plan's stops; `done(until)` is False.
          stopping: asked after the call; what is due is then left to the resumed run, unless the
            plan is done.
        """
        warm_up = self._update < 0
        stop = 0 if warm_up else self._next_stop(until)
        assert stop is not None, "asked for more although done"
        if self._update < stop:
            started, n_updates = time.perf_counter(), min(self._call_length(), stop - self._update)
            self._states, self._tallies = self._population.train(
                self._states, self._tallies, self._update, n_updates
            )
            _wait((self._states, self._tallies))
            self._count(n_updates, time.perf_counter() - started)
        if warm_up:
            if self._update == 0:  # its speed says nothing of training, its metrics are nobody's
                self._tallies = self._population.empty_tallies()
                self._per_update_s = self._row_s = self._row_steps = 0.0
        elif (self._update == stop or self.ending) and (self.ended or not stopping()):
            self._arrive(stop)

    def write_train_row(self) -> None:
        """Writes the row of what was learnt since the last one, if anything was."""
        if self._update <= self._row_update:
            return
        totals = self._population.metrics(self._tallies).totals
        speed = self._row_steps / self._row_s
        columns = {
            name: np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
            for name, (total, count) in totals.items()
        }
        speeds = np.full(len(self.members), speed)
        self._write("train", {**columns, "perf/env_steps_per_s": speeds})
        self._row_update, self._row_s, self._row_steps = self._update, 0.0, 0.0
        self._tallies = self._population.empty_tallies()

    def evaluation(self) -> dict[str, np.ndarray]:
        """Greedy evaluation of the members as they are now: `eval/<name>` -> f32[P].

        Its episodes are those of a scheduled evaluation after the same update.
        """
        index = self._update + self._plan.warm_up_collects
        results = self._population.evaluate(self._states, index)
        return {f"eval/{name}": values for name, values in results.items()}

    def parameters(self) -> Any:
        """A host copy of the online parameters, [P, ...]."""
        return self._population.parameters(self._states)

    def narrow(self, keep: Sequence[int], members: population.Population | None) -> None:
        """Continues with some of the members, each exactly where it was.

        Args:
          keep: positions in the group.
          members: the compiled population of these; None if there are none, which frees the states.
        """
        places = [self.members.index(member) for member in keep]
        self.members = list(keep)
        if members is None:
            self._states = self._tallies = ()
            return
        self._states, self._tallies = members.transfer(self._states, self._tallies, places)
        self._population = members
        self._best.narrow(places)

    def outcomes(self, chosen: Sequence[int], pruned: bool = False) -> dict[int, outcomes.Outcome]:
        """What the members of the chosen jobs came to so far.

        Args:
          pruned: successive halving ends them here.
        """
        owners, parameters = self._group.owners, self.parameters()
        verdicts = {} if pruned else self.verdicts()
        failed = all(member in self._failures for member in self.members)
        found = {}
        for job in chosen:
            own = [member for member in self.members if owners[member] == job]
            at = np.array([self.members.index(member) for member in own])
            found[job] = outcomes.Outcome(
                parameters=jax.tree.map(lambda leaf, at=at: leaf[at], parameters),
                best_parameters=jax.tree.map(lambda leaf, at=at: leaf[at], self._best.parameters),
                update=max(self._update, 0),
                env_steps=self.env_steps,
                train_s=self._train_s,
                eval_s=self._eval_s,
                interrupted=not (self.ended or failed or pruned or job in verdicts),
                failures={
                    i: self._failures[member]
                    for i, member in enumerate(own)
                    if member in self._failures
                },
                pruned=pruned,
                stopped=verdicts.get(job),
            )
        return found

    def snapshot(self) -> Snapshot:
        """All there is to resume from; see `restore`."""
        if not self.members:
            return Snapshot(self._numbers(), {})
        settings = self._group.config.checkpoint.replay
        keeps_replay = settings == "always" or (
            settings == "running" and not (self.ended or self.stopped)
        )
        stored = self._plan.stored_at(self._update) if keeps_replay else 0
        best_scores, best_arrays = self._best.snapshot()
        arrays = self._population.snapshot(self._states, self._tallies, stored)
        numbers = {**self._numbers(), "best_scores": best_scores}
        return Snapshot(numbers, {**arrays, **best_arrays})

    def _numbers(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, f"_{name}") for name in _NUMBERS},
            "span": self.span,
            "members": self.members,
            "elapsed_s": time.perf_counter() - self._started,
            "failures": self._failures,
            "watches": {i: watch.snapshot() for i, watch in self._watches.items()},
        }

    def restore(
        self,
        members: population.Population | None,
        snapshot: Snapshot,
        n_resumed: int,
        stopping: Callable[[], bool],
    ) -> bool:
        """Continues where a snapshot was taken, instead of `begin`.

        Args:
          members: of the snapshot's `members`; None if there are none.
          snapshot: its arrays are dropped once they are on the devices.
          n_resumed: how often the run was resumed, this time included.
          stopping: asked between compiled calls, of which a replay that is collected anew takes
            many.
        Returns:
          Whether the replay is new, for the snapshot has none.
        """
        numbers, arrays = snapshot
        for name in _NUMBERS:
            setattr(self, f"_{name}", numbers[name])
        self.members = list(numbers["members"])
        self._failures = {int(member): text for member, text in numbers["failures"].items()}
        self._started = time.perf_counter() - numbers["elapsed_s"]
        for i, seen in numbers["watches"].items():
            self._watches[int(i)].restore(seen)
        if members is None:
            return False
        has_replay = any(name.startswith(population.REPLAY) for name in arrays)
        self._population = members
        self._states, self._tallies = members.restore(arrays)
        self._best.restore(numbers["best_scores"], arrays)
        arrays.clear()
        self._show()
        begun = self._update + self._plan.warm_up_collects
        if has_replay or self.ended or self.stopped or not begun:
            return False
        self._refill(n_resumed, stopping)
        return True

    def _refill(self, n_resumed: int, stopping: Callable[[], bool]) -> None:
        """Collects as many sequences as there were, by the policies and with the exploration of
        now. Keys are those of collects before the warm-up, which no run draws from, and differ from
        those of earlier resumptions.
        """
        plan, group = self._plan, self._group
        n_full = plan.capacity * plan.window // plan.steps_per_update
        n_collects = min(self._update + plan.warm_up_collects, n_full)
        seeds, hparams = group.seeds, group.hparams
        exploring = self._population.rebind(
            [seeds[member] for member in self.members],
            [_constant_epsilon(hparams[member], self.env_steps) for member in self.members],
        )
        first = -plan.warm_up_collects - n_full * n_resumed  # negative: nothing is learnt
        n_done = 0
        while n_done < n_collects and not stopping():
            length = min(self._call_length(), n_collects - n_done)
            started = time.perf_counter()
            tallies = exploring.empty_tallies()
            self._states, _ = exploring.train(self._states, tallies, first + n_done, length)
            _wait(self._states)
            self._per_update_s = (time.perf_counter() - started) / length
            n_done += length
        self._per_update_s = 0.0

    def _next_stop(self, until: int) -> int | None:
        """The next update, up to `until`, after which something is due."""
        passed, update = self._passed, self._update
        return next((s for s in self._stops if passed < s <= until and s >= update), None)

    def _count(self, n_updates: int, seconds: float) -> None:
        """Notes what a compiled call has done."""
        self._update += n_updates
        self._per_update_s = seconds / n_updates
        self._train_s += seconds
        self._row_s += seconds
        self._row_steps += n_updates * self._plan.steps_per_update * len(self.members)
        self._note_failures()
        self._show()

    def _call_length(self) -> int:
        """Updates of the next call; the first one is short, for its speed is not known."""
        if not self._per_update_s:
            return 1
        return max(1, int(_CALL_SECONDS / self._per_update_s))

    def _arrive(self, stop: int) -> None:
        """What is due at update `stop`, or before it where everything ends."""
        if self.ending or stop % self._plan.log_every == 0:
            self.write_train_row()
        if self.ending or stop % self._plan.eval_every == 0:
            self._evaluate()
        self._passed = self._update

    def _note_failures(self) -> None:
        firsts, seeds = self._population.metrics(self._tallies).first_nonfinite, self._group.seeds
        for i, member in enumerate(self.members):
            metric = min(firsts, key=lambda name: firsts[name][i])
            update = int(firsts[metric][i])
            if update == train_step.NEVER or member in self._failures:
                continue
            self._failures[member] = (
                f"{metric} of seed {seeds[member]} is not finite at update {update} (env step "
                f"{self._plan.env_steps_at(update):,}); the member is frozen as it was before; "
                "lower hparams.learning_rate or hparams.max_grad_norm"
            )
            self._display.note(self._failures[member])

    def _evaluate(self) -> None:
        started = time.perf_counter()
        results = self.evaluation()
        self._eval_s += time.perf_counter() - started
        self._write("eval", results)
        self._evaluated, owners = self._update, self._group.owners
        for i in self.jobs:
            own = [at for at, member in enumerate(self.members) if owners[member] == i]
            self._watches[i].see({name: values[own] for name, values in results.items()})
        named = {name.removeprefix("eval/"): values for name, values in results.items()}
        self._best.see(named, self.parameters())
        self._show(named)

    def _write(self, kind: str, columns: dict[str, np.ndarray]) -> None:
        seeds, owners = self._group.seeds, self._group.owners
        update = max(self._update, 0)
        place = {
            "kind": kind,
            "env_steps": self.env_steps,
            "update": update,
            "gradient_step": update * self._plan.gradient_steps,
            "time_s": time.perf_counter() - self._started,
        }
        rows: dict[int, list[dict[str, Any]]] = {}
        for i, member in enumerate(self.members):
            values = {name: column[i] for name, column in columns.items()}
            rows.setdefault(owners[member], []).append({**place, "seed": seeds[member], **values})
        for job, own in rows.items():
            self._files[job].write(own)

    def _show(self, results: Mapping[str, np.ndarray] | None = None) -> None:
        shown = results or {}
        steps = self._plan.steps_per_update * len(self.members)
        self._display.update(
            env_steps=self.env_steps,
            total=self._plan.env_steps,
            steps_per_s=steps / self._per_update_s if self._per_update_s else 0.0,
            eta_s=self._eta_s(),
            returns=shown.get("return"),
            win_rates=shown.get("win_rate"),
        )

    def _eta_s(self) -> float:
        known = self._per_update_s and self._update > 0
        remaining = self._plan.n_updates - self._update
        return remaining * self._per_update_s if known or not remaining else float("nan")


def _constant_epsilon(hparams: Any, env_steps: int) -> Any:
    """The same hyper-parameters, exploring as they do after so many env steps."""
    now = schedules.linear(hparams.epsilon, jnp.float32(env_steps))
    return replace(hparams, epsilon=replace(hparams.epsilon, start=now, end=now))


def _wait(tree: Any) -> None:
    """Waits for device work in short naps, so that Ctrl-C is heard at once."""
    leaves = [x for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    while not all(leaf.is_ready() for leaf in leaves):
        time.sleep(0.01)
    jax.block_until_ready(tree)
