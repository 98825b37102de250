"""Trains members of a group in chunks, and writes rows and evaluates between them."""

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
from qmix_jax.runs import jobs, outcomes, scores
from qmix_jax.runs import rows as run_rows
from qmix_jax.training import best, stopping

_CHUNK_SECONDS = 4.0
"""Target length of a chunk: long enough to hide the overhead of a call, short enough for Ctrl-C."""

_COUNTERS = (
    "update", "passed", "evaluated", "row_update", "row_s", "row_steps", "train_s", "eval_s",
)  # fmt: skip
"""Attributes (without `_`) that a snapshot stores unchanged."""


class Snapshot(NamedTuple):
    """State of members in training: JSON fields, and arrays [P, ...] by name."""

    fields: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Training:
    """Members of a group in training.

    Attributes:
      span: the members that started together, from first to last + 1.
      members: indices in the group of those still in training.
    """

    def __init__(
        self,
        group: jobs.Group,
        span: tuple[int, int],
        rows: Sequence[run_rows.JobRows],
        display: progress.Progress,
    ) -> None:
        """`rows`: files and loggers of each job; call `begin` or `restore` next."""
        self._group, self._plan = group, group.program.plan
        self._rows, self._display = rows, display
        self.span, self.members = span, list(range(*span))
        self._population: population.Population
        self._states: population.Rounds = ()
        self._tallies: population.Rounds = ()
        self._stops = self._plan.stops()
        self._update = -self._plan.warm_up_collects
        self._started = time.perf_counter()
        self._train_s = self._eval_s = 0.0
        self._row_s = self._row_steps = 0.0  # since the last training row
        self._row_update = 0
        self._passed = 0  # everything due up to this update is written
        self._evaluated = self._update
        self._per_update_s = 0.0
        spec = group.program.spec
        ranking = scores.ranking(spec.best_metrics, spec.eval_metrics)
        self._best = best.BestParameters(len(self.members), ranking)
        self._rules = {i: stopping.StopRules(group.jobs[i].config.stop, spec) for i in self.jobs}
        self._failures: dict[int, str] = {}

    @property
    def update(self) -> int:
        """Updates done; negative during the warm-up."""
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
        """Indices in the group of the jobs still in training."""
        owners = self._group.owners
        return list(dict.fromkeys(owners[member] for member in self.members))

    @property
    def at_end(self) -> bool:
        """Whether the last update of the plan is done."""
        return self._update == self._plan.n_updates

    @property
    def stopped(self) -> bool:
        """Whether stop rules end all jobs still in training; never during the warm-up."""
        if self._update <= 0 and self._evaluated != self._update:
            return False
        return all(self._rules[i].verdict(self._train_s) for i in self.jobs)

    @property
    def over(self) -> bool:
        """Whether nothing is left to train."""
        return self.at_end or self._all_failed or self.stopped

    def verdicts(self) -> dict[int, str]:
        """Job -> the stop rule that ends it after the latest evaluation."""
        if self.at_end or self._evaluated != self._update:
            return {}
        verdicts = {i: self._rules[i].verdict(self._train_s) for i in self.jobs}
        return {i: verdict for i, verdict in verdicts.items() if verdict}

    def reached(self, until: int) -> bool:
        """Whether update `until` is done and everything due there is written."""
        return (
            not self.members
            or (self.over and self._update <= self._passed)
            or (self._update >= 0 and self._next_stop(until) is None)
        )

    def begin(self, members: population.Population) -> None:
        """Initialises the members and evaluates them untrained."""
        self._population = members
        self._states = members.init()
        self._tallies = members.empty_tallies()
        _wait(self._states)
        self._evaluate()

    def step(self, until: int, should_stop: Callable[[], bool]) -> None:
        """Trains for one chunk, then writes due rows and evaluations.

        Args:
          until: one of the plan's stops; `reached(until)` is False.
          should_stop: called after the chunk; if True, the resumed run writes what is due,
            unless the plan is done.
        """
        warm_up = self._update < 0
        stop = 0 if warm_up else self._next_stop(until)
        assert stop is not None, "called although `reached(until)`"
        if self._update < stop:
            n_updates = min(self._chunk_length(), stop - self._update)
            started = time.perf_counter()
            self._states, self._tallies = self._population.train(
                self._states, self._tallies, self._update, n_updates
            )
            _wait((self._states, self._tallies))
            self._advance(n_updates, time.perf_counter() - started)
        if warm_up and self._update == 0:
            # Neither the speed nor the metrics of the warm-up describe training.
            self._tallies = self._population.empty_tallies()
            self._per_update_s = self._row_s = self._row_steps = 0.0
        due = not warm_up and (self._update == stop or self.over)
        if due and (self.at_end or not should_stop()):
            if self.over or stop % self._plan.log_every == 0:
                self.write_train_row()
            if self.over or stop % self._plan.eval_every == 0:
                self._evaluate()
            self._passed = self._update

    def write_train_row(self) -> None:
        """Writes a training row per member, unless nothing was trained since the last one."""
        if self._update <= self._row_update:
            return
        totals = self._population.metrics(self._tallies).totals
        columns = {
            name: np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
            for name, (total, count) in totals.items()
        }
        speed = np.full(len(self.members), self._row_steps / self._row_s)
        self._write("train", {**columns, "perf/env_steps_per_s": speed})
        self._row_update, self._row_s, self._row_steps = self._update, 0.0, 0.0
        self._tallies = self._population.empty_tallies()

    def evaluation(self) -> dict[str, np.ndarray]:
        """Evaluates the members greedily now: `eval/<name>` -> f32[P].

        The episodes are those of a scheduled evaluation after the same update.
        """
        index = self._update + self._plan.warm_up_collects
        results = self._population.evaluate(self._states, index)
        return {f"eval/{name}": values for name, values in results.items()}

    def parameters(self) -> Any:
        """A host copy of the online parameters, [P, ...]."""
        return self._population.parameters(self._states)

    def select(self, members: Sequence[int], compiled: population.Population | None) -> None:
        """Continues with some members only (indices in the group), unchanged.

        `compiled`: their population; None if there are none, which frees the states.
        """
        places = [self.members.index(member) for member in members]
        self.members = list(members)
        if compiled is None:
            self._states = self._tallies = ()
            return
        self._states, self._tallies = compiled.transfer(self._states, self._tallies, places)
        self._population = compiled
        self._best.select(places)

    def outcomes(self, jobs: Sequence[int], pruned: bool = False) -> dict[int, outcomes.Outcome]:
        """Returns the outcomes of jobs that end now; `pruned`: by successive halving."""
        parameters, verdicts = self.parameters(), {} if pruned else self.verdicts()
        by_job = {}
        for job in jobs:
            places = self._places(job)
            final, best_so_far = (
                jax.tree.map(lambda leaf, at=places: leaf[at], tree)
                for tree in (parameters, self._best.parameters)
            )
            by_job[job] = outcomes.Outcome(
                parameters=final,
                best_parameters=best_so_far,
                update=max(self._update, 0),
                env_steps=self.env_steps,
                train_s=self._train_s,
                eval_s=self._eval_s,
                interrupted=not (self.at_end or self._all_failed or pruned or job in verdicts),
                failures={
                    i: self._failures[self.members[place]]
                    for i, place in enumerate(places)
                    if self.members[place] in self._failures
                },
                pruned=pruned,
                stopped=verdicts.get(job),
            )
        return by_job

    def snapshot(self) -> Snapshot:
        """Returns the state for `restore`."""
        fields = {
            **{name: getattr(self, f"_{name}") for name in _COUNTERS},
            "span": self.span,
            "members": self.members,
            "elapsed_s": time.perf_counter() - self._started,
            "failures": self._failures,
            "watches": {i: rules.snapshot() for i, rules in self._rules.items()},
        }
        if not self.members:
            return Snapshot(fields, {})
        replay = self._group.config.checkpoint.replay
        unfinished = not (self.at_end or self.stopped)
        with_replay = replay == "always" or (replay == "running" and unfinished)
        n_stored = self._plan.stored_at(self._update) if with_replay else 0
        best_scores, best_arrays = self._best.snapshot()
        arrays = self._population.snapshot(self._states, self._tallies, n_stored)
        return Snapshot({**fields, "best_scores": best_scores}, {**arrays, **best_arrays})

    def restore(
        self,
        members: population.Population | None,
        snapshot: Snapshot,
        n_resumed: int,
        should_stop: Callable[[], bool],
    ) -> bool:
        """Continues from a snapshot; called instead of `begin`.

        Args:
          members: population of the snapshot's `members`; None if it has none.
          snapshot: its arrays are dropped once they are on the devices.
          n_resumed: number of times that the run was resumed, including this one.
          should_stop: called between the chunks that collect a new replay.
        Returns:
          Whether a new replay was collected, because the snapshot has none.
        """
        fields, arrays = snapshot
        for name in _COUNTERS:
            setattr(self, f"_{name}", fields[name])
        self.members = list(fields["members"])
        self._failures = {int(member): text for member, text in fields["failures"].items()}
        self._started = time.perf_counter() - fields["elapsed_s"]
        for i, state in fields["watches"].items():
            self._rules[int(i)].restore(state)
        if members is None:
            return False
        has_replay = any(name.startswith(population.REPLAY) for name in arrays)
        self._population = members
        self._states, self._tallies = members.restore(arrays)
        self._best.restore(fields["best_scores"], arrays)
        arrays.clear()
        self._show()
        n_collects = self._update + self._plan.warm_up_collects
        if has_replay or self.at_end or self.stopped or not n_collects:
            return False
        self._refill(n_collects, n_resumed, should_stop)
        return True

    def _refill(self, n_collects: int, n_resumed: int, should_stop: Callable[[], bool]) -> None:
        """Collects a new replay of the same size, with the current policies and exploration.

        The keys are those of collects before the warm-up, which no run uses, and differ between
        resumptions.
        """
        plan, hparams, exploring = self._plan, self._group.hparams, []
        for values in (hparams[member] for member in self.members):
            epsilon = schedules.linear(values.epsilon, jnp.float32(self.env_steps))
            constant = replace(values.epsilon, start=epsilon, end=epsilon)
            exploring.append(replace(values, epsilon=constant))
        seeds = self._group.seeds
        members = self._population.rebind([seeds[member] for member in self.members], exploring)
        n_full = plan.capacity * plan.window // plan.steps_per_update
        n_collects, n_done = min(n_collects, n_full), 0
        first = -plan.warm_up_collects - n_full * n_resumed  # negative: nothing is learnt
        while n_done < n_collects and not should_stop():
            length = min(self._chunk_length(), n_collects - n_done)
            started = time.perf_counter()
            tallies = members.empty_tallies()
            self._states, _ = members.train(self._states, tallies, first + n_done, length)
            _wait(self._states)
            self._per_update_s = (time.perf_counter() - started) / length
            n_done += length
        self._per_update_s = 0.0

    @property
    def _all_failed(self) -> bool:
        return all(member in self._failures for member in self.members)

    def _places(self, job: int) -> list[int]:
        """Positions in `members` of a job's members."""
        owners = self._group.owners
        return [place for place, member in enumerate(self.members) if owners[member] == job]

    def _next_stop(self, until: int) -> int | None:
        """The next update, up to `until`, after which something is due."""
        passed, update = self._passed, self._update
        return next((s for s in self._stops if passed < s <= until and s >= update), None)

    def _chunk_length(self) -> int:
        """Updates of the next chunk; 1 while the speed is unknown."""
        return max(1, int(_CHUNK_SECONDS / self._per_update_s)) if self._per_update_s else 1

    def _advance(self, n_updates: int, seconds: float) -> None:
        self._update += n_updates
        self._per_update_s = seconds / n_updates
        self._train_s += seconds
        self._row_s += seconds
        self._row_steps += n_updates * self._plan.steps_per_update * len(self.members)
        self._note_failures()
        self._show()

    def _note_failures(self) -> None:
        firsts, seeds = self._population.metrics(self._tallies).first_nonfinite, self._group.seeds
        for i, member in enumerate(self.members):
            metric = min(firsts, key=lambda name: firsts[name][i])
            update = int(firsts[metric][i])
            if update == train_step.NEVER or member in self._failures:
                continue
            self._failures[member] = (
                f"{metric} of seed {seeds[member]} is not finite at update {update} (env step "
                f"{self._plan.env_steps_at(update):,}); the member is frozen at its last finite "
                "state; lower hparams.learning_rate or hparams.max_grad_norm"
            )
            self._display.note(self._failures[member])

    def _evaluate(self) -> None:
        started = time.perf_counter()
        results = self.evaluation()
        self._eval_s += time.perf_counter() - started
        self._write("eval", results)
        self._evaluated = self._update
        for i in self.jobs:
            places = self._places(i)
            self._rules[i].update({name: values[places] for name, values in results.items()})
        by_name = {name.removeprefix("eval/"): values for name, values in results.items()}
        self._best.update(by_name, self.parameters())
        self._show(by_name)

    def _write(self, kind: str, columns: Mapping[str, np.ndarray]) -> None:
        update, seeds = max(self._update, 0), self._group.seeds
        common = {
            "kind": kind,
            "env_steps": self.env_steps,
            "update": update,
            "gradient_step": update * self._plan.gradient_steps,
            "time_s": time.perf_counter() - self._started,
        }
        for job in self.jobs:
            self._rows[job].write(
                {
                    **common,
                    "seed": seeds[self.members[place]],
                    **{name: column[place] for name, column in columns.items()},
                }
                for place in self._places(job)
            )

    def _show(self, results: Mapping[str, np.ndarray] | None = None) -> None:
        results = results or {}
        steps, per_update_s = self._plan.steps_per_update * len(self.members), self._per_update_s
        n_left = self._plan.n_updates - self._update
        known = (per_update_s and self._update > 0) or not n_left
        self._display.update(
            env_steps=self.env_steps,
            total=self._plan.env_steps,
            steps_per_s=steps / per_update_s if per_update_s else 0.0,
            eta_s=n_left * per_update_s if known else float("nan"),
            returns=results.get("return"),
            win_rates=results.get("win_rate"),
        )


def _wait(tree: Any) -> None:
    """Waits for device work in short sleeps, so that Ctrl-C is handled at once."""
    leaves = [x for x in jax.tree.leaves(tree) if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key)]
    while not all(leaf.is_ready() for leaf in leaves):
        time.sleep(0.01)
    jax.block_until_ready(tree)
