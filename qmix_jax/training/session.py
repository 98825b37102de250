"""A session: groups of runs on their way through a schedule, with their files and checkpoints."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qmix_jax import config, plan, program
from qmix_jax.console import progress
from qmix_jax.runs import (
    checkpoint,
    jobs,
    metadata,
    outcomes,
    parameters,
    record,
    results,
    rows,
    scores,
    storage,
)
from qmix_jax.training import compatibility, halving, loop, programs, schedule, stopping


class Session(contextlib.AbstractContextManager["Session"]):
    """Runs in training, to be driven step by step.

    All members of a group train to the end, or one slice after another where memory is short, or
    from rung to rung of a successive halving. After an exception the run is what a crash would
    leave: it resumes from its last checkpoint.

        with qmix_jax.start(cfg) as session:
            while session.step():
                print(session.env_steps)
        result = session.result()

    What describes one run (`config`, `metrics`, `result` ...) is the first one's where several
    train together; `start` makes sessions of one run.
    """

    def __init__(
        self,
        groups: Sequence[jobs.Group],
        compiled: programs.Programs,
        display: progress.Progress,
        interrupted: Callable[[], bool],
        surroundings: contextlib.ExitStack,
        rungs: halving.Halving | None = None,
        objective: scores.Objective = scores.Objective(),  # noqa: B008
    ) -> None:
        """Compiles, opens the run directories, which are claimed, and restores the last checkpoint.

        Args:
          groups: one, or several with `rungs`.
          compiled: where compiled programs are kept.
          interrupted: whether a signal asks to end early.
          surroundings: is closed with the session, or when anything fails.
          rungs: where the worse jobs end early, by `objective`.
        Raises:
          ConfigError: memory is too small, or the checkpoint cannot be resumed.
        """
        self._groups, self._programs = groups, compiled
        self._display, self._interrupted = display, interrupted
        self._surroundings = surroundings
        self._rungs, self._objective = rungs, objective
        self._asked_to_stop = self._closed = self._was_cut = False
        self._jobs = [(g, i) for g, group in enumerate(groups) for i in range(len(group.jobs))]
        self._trainings: list[loop.Training | None] = [None] * len(groups)
        self._outcomes: dict[tuple[int, int], outcomes.Outcome] = {}
        self._manifests: dict[tuple[int, int], dict[str, Any]] = {}
        self._finished: set[tuple[int, int]] = set()
        self._spent = [(0.0, 0.0) for _ in groups]
        self._leg = self._n_resumed = 0
        with self._closed_on_error():
            self._open()

    # Driving

    def step(self) -> bool:
        """Trains for one compiled call, some seconds, and writes the rows, evaluation and
        checkpoint that are then due.

        Returns:
          Whether anything was trained: False when the schedule is done or was cut short.
        """
        with self._closed_on_error():
            if (due := self._due()) is None:
                return False
            now, until = due
            now.step(until, self._stopping)
            self._save(last=now.ending)
            return True

    def evaluate(self) -> dict[str, np.ndarray]:
        """Evaluates the members now, with the episodes that a scheduled evaluation would play.

        Nothing is written and `best_parameters` do not change, so that the curve is that of a run
        nobody looked at.

        Returns:
          `eval/<name>` -> f32[P].
        """
        now = self._trainings[0]
        if now is None or not now.members:
            raise config.ConfigError("session: it has ended; nothing is in training")
        return now.evaluation()

    def save(self) -> None:
        """Makes a checkpoint now, unless there is one of this update.

        Raises:
          ConfigError: checkpoints are switched off.
        """
        if not self.config.checkpoint.enabled:
            raise config.ConfigError("session: save() needs checkpoint.enabled=true")
        if self._leg < len(self._legs) and not self._closed:
            with self._closed_on_error():
                self._save(last=True)

    def stop(self) -> None:
        """Ends early, as Ctrl-C does: the next `step` saves and returns False, and the result is
        `interrupted`.
        """
        self._asked_to_stop = True

    def close(self) -> None:
        """Ends the session, early if `step` has more to do, and writes the final files."""
        if self._closed:
            return
        with self._closed_on_error():
            self._end()
        self._closed = True
        self._surroundings.close()

    def _end(self) -> None:
        self._asked_to_stop |= self._leg < len(self._legs)
        while self.step():
            pass
        if not self._was_cut:
            self._store.end()
        self._opened.close()
        for g, now in enumerate(self._trainings):
            self._leave(g, now.jobs if now else ())
        self._finish([key for key in self._jobs if key not in self._finished])

    @contextlib.contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """Closes the session if the body raises."""
        try:
            yield
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self.close()
        elif not self._closed:
            self._closed = True
            self._surroundings.__exit__(kind, error, trace)

    # Looking

    @property
    def config(self) -> config.ExperimentConfig:
        """The configuration of the run."""
        return self._groups[0].config

    @property
    def plan(self) -> plan.Plan:
        """The arithmetic of the run."""
        return self._groups[0].program.plan

    @property
    def program(self) -> program.Program:
        """The pure functions of one member, for example to look into `parameters` with."""
        return self._groups[0].program

    @property
    def directory(self) -> pathlib.Path:
        """The run directory."""
        return self._groups[0].jobs[0].path

    @property
    def update(self) -> int:
        """Updates done, of the members in training."""
        now = self._trainings[0]
        return max(now.update, 0) if now and now.members else self._outcomes[0, 0].update

    @property
    def env_steps(self) -> int:
        """Env steps done by each of the members in training, warm-up included."""
        now = self._trainings[0]
        return now.env_steps if now and now.members else self._outcomes[0, 0].env_steps

    @property
    def parameters(self) -> Any:
        """A copy on the host of the online parameters, a nested dict of arrays [P, ...]: of the
        members in training (a slice of them where memory is short), after `close` of all. States on
        the devices are donated to the next call.
        """
        now = self._trainings[0]
        return now.parameters() if now and now.members else self._outcomes[0, 0].parameters

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """The rows so far: columns of `metrics.csv` -> array with one entry per row."""
        return storage.read_metrics(self.directory / "metrics.csv")

    def result(self) -> results.Result:
        """What the run came to; closes the session if it is open."""
        return self.results(0)[0]

    def results(self, group: int) -> list[results.Result]:
        """What each run of a group came to; closes the session if it is open."""
        self.close()
        whole = self._groups[group]
        if (group, 0) not in self._outcomes:
            raise config.ConfigError(
                "session: it was ended by an error and has no result; resume it from its directory"
            )
        return [
            results.make(job, self._outcomes[group, i], whole.program, self._objective)
            for i, job in enumerate(whole.jobs)
        ]

    def seconds(self, group: int) -> outcomes.WallTime:
        """How long a group took so far."""
        now = self._trainings[group]
        pairs = zip(self._spent[group], now.seconds if now else (0.0, 0.0), strict=True)
        return outcomes.WallTime(self._compiled[group].seconds, *map(sum, pairs))

    # The schedule

    def _due(self) -> tuple[loop.Training, int] | None:
        """The training to step next and its last update; finishes the legs that are done."""
        while self._leg < len(self._legs) and not self._closed:
            leg = self._legs[self._leg]
            now = self._trainings[leg.group] or self._begin(leg)
            if stopped := now.verdicts():
                self._stop_jobs(leg.group, stopped)
                continue
            if now.done(leg.until):
                self._finish_leg(leg)
                continue
            if not self._stopping():
                return now, leg.until
            self._cut()
        return None

    def _begin(self, leg: schedule.Segment) -> loop.Training:
        """Makes the members of a leg."""
        now = self._make(leg.group, leg.span)
        now.begin(self._compiled[leg.group].of(now.members))
        return now

    def _make(self, g: int, span: tuple[int, int]) -> loop.Training:
        files = [self._files[g, i] for i in range(len(self._groups[g].jobs))]
        now = loop.Training(self._groups[g], span, files, self._display)
        self._trainings[g] = now
        return now

    def _finish_leg(self, leg: schedule.Segment) -> None:
        """What comes after a leg: the comparison at a rung, or the next slice of the group."""
        self._leg += 1
        if leg.rung is not None:
            self._halve(leg.rung)
        elif self._leg < len(self._legs) and self._sliced:
            self._leave_slice(leg.group)

    def _cut(self) -> None:
        """Ends early, saved; members that have not begun are made, so that the result has all."""
        self._save(last=True)  # before rows that an uninterrupted run would not have
        self._was_cut = True
        now = self._trainings[self._legs[self._leg].group]
        assert now is not None, "it was asked to train"
        now.write_train_row()
        for leg in self._legs[self._leg + 1 :]:
            before = self._trainings[leg.group]
            if before is not None and before.span != leg.span:
                self._leave_slice(leg.group)
            if self._trainings[leg.group] is None:
                self._begin(leg)
        self._leg = len(self._legs)

    def _stop_jobs(self, group: int, verdicts: Mapping[int, str]) -> None:
        """Ends jobs by their stop rules."""
        for i, verdict in verdicts.items():
            job = self._groups[group].jobs[i]
            of = f"{job.label or job.path}: " if len(self._jobs) > 1 else ""
            self._display.note(f"{of}ended by {verdict}")
        self._leave(group, list(verdicts))

    def _halve(self, rung: int) -> None:
        """Ends the worse jobs of all groups."""
        assert self._rungs is not None
        found = {
            (g, i): self._objective.of(
                storage.read_metrics(self._groups[g].jobs[i].path / "metrics.csv")
            )
            for g, now in enumerate(self._trainings)
            for i in (now.jobs if now else ())
        }
        ranked = halving.ranked(found, self._objective.maximise)
        if not ranked:
            return
        n_kept = self._rungs.survivors(len(ranked))
        for g in range(len(self._groups)):
            self._leave(g, [i for group, i in ranked[n_kept:] if group == g], pruned=True)
        dropped = ", ".join(f"{found[key]:.4g}" for key in ranked[n_kept:])
        self._display.note(
            f"rung {rung + 1}, {self._rungs.rungs[rung]:.0%} of the run: {n_kept} of "
            f"{progress.count(len(ranked), 'setting')} train on, the last of them at "
            f"{found[ranked[n_kept - 1]]:.4g}; dropped: {dropped or 'none'}"
        )

    def _leave(self, group: int, chosen: Sequence[int], pruned: bool = False) -> None:
        """Ends jobs of a group here; the members of the others train on in a smaller population."""
        now = self._trainings[group]
        if not chosen or now is None:
            return
        for i, outcome in now.outcomes(chosen, pruned).items():
            before = self._outcomes.get((group, i))
            self._outcomes[group, i] = outcomes.join([before, outcome]) if before else outcome
        owners = self._groups[group].owners
        keep = [member for member in now.members if owners[member] not in chosen]
        now.narrow(keep, self._compiled[group].of(keep) if keep else None)
        if not self._sliced:
            self._finish([(group, i) for i in chosen])

    def _leave_slice(self, group: int) -> None:
        now = self._trainings[group]
        assert now is not None, "it has trained"
        self._leave(group, now.jobs)
        self._spent[group] = self.seconds(group)[1:]
        self._trainings[group] = None

    def _finish(self, keys: Sequence[tuple[int, int]]) -> None:
        """Writes the final files of jobs."""
        for key in keys:
            if self._sliced and not self._was_cut:  # else they are resumed as they are
                storage.sort_rows(self._job(key).path)
            record.finish(self._job(key), self._manifests[key], self._outcomes[key])
            self._finished.add(key)

    def _stopping(self) -> bool:
        return self._asked_to_stop or self._interrupted()

    @property
    def _sliced(self) -> bool:
        return self._rungs is None and len(self._legs) > 1

    def _job(self, key: tuple[int, int]) -> jobs.Job:
        return self._groups[key[0]].jobs[key[1]]

    # Opening, saving, restoring

    def _open(self) -> None:
        runs = [self._job(key) for key in self._jobs]
        settings, note = runs[0].config.checkpoint, self._display.note
        self._opened = self._surroundings.enter_context(contextlib.ExitStack())
        self._store = self._opened.enter_context(
            checkpoint.CheckpointStore(runs[0].path, settings, note)
        )
        saved = compatibility.saved(runs, note, self._rungs)
        gather = self._rungs is not None
        self._compiled = [
            programs.CompiledPopulation(group, self._programs, self._display, gather)
            for group in self._groups
        ]
        if gather:
            programs.check_together(self._compiled)
        n_together = self._compiled[0].n_together
        arrays = self._check(saved, n_together) if saved else {}
        begun = [tuple(span) for span in saved.meta["spans"]] if saved else []
        self._legs = (
            schedule.rungs(self._groups, self._rungs)
            if self._rungs
            else schedule.slices(self._groups[0], begun, n_together)
        )
        if self._sliced:
            stopping.check_slices(self._groups[0], [leg.span for leg in self._legs])
        self._begin_records(saved)
        self._open_files(saved.meta["sizes"] if saved else [None] * len(runs))
        if saved is not None:
            self._restore(saved.meta, arrays)
        else:
            self._begin(self._legs[0])

    def _begin_records(self, saved: checkpoint.SavedCheckpoint | None) -> None:
        """Writes configuration and manifest of the runs that have not ended."""
        ended = saved.meta["outcomes"] if saved and not self._sliced else {}
        for number, (g, i) in enumerate(self._jobs):
            if str(number) in ended:
                self._finished.add((g, i))
                continue
            group, reached = self._groups[g], None
            if saved is not None:
                begun = saved.meta["groups"][g]
                reached = group.program.plan.env_steps_at(begun["update"]) if begun else 0
            more = compatibility.history(group.jobs[i].path, self._store.path, reached)
            self._manifests[g, i] = record.begin(
                group, group.jobs[i], self._compiled[g].members, self._compiled[g].seconds, more
            )

    def _open_files(self, sizes: Sequence[Sequence[int] | None]) -> None:
        """Opens where the rows of each run go; those of a checkpoint continue."""
        failed: set[str] = set()
        self._files = {}
        for key, size in zip(self._jobs, sizes, strict=True):
            job = self._job(key)
            opened = rows.open_rows(
                job.config,
                job.path,
                self._compiled[key[0]].columns,
                self._display.note,
                size,
                failed,
            )
            self._files[key] = self._opened.enter_context(opened)

    def _position(self) -> int:
        """The number of a checkpoint made now: env steps, of slices and groups one after another,
        and the legs done.
        """
        slices = self._leg if self._sliced else 0
        return self._leg + sum(
            slices * group.program.plan.env_steps + (now.env_steps if now else 0)
            for group, now in zip(self._groups, self._trainings, strict=True)
        )

    def _save(self, last: bool) -> None:
        """Makes a checkpoint if it is time for one, or it is the `last` one."""
        step = self._position()
        if not self._store.wants(step, last):
            return
        taken = [now and now.snapshot() for now in self._trainings]
        ended = {self._jobs.index(key): outcome for key, outcome in self._outcomes.items()}
        numbers, arrays = outcomes.pack(ended)
        meta = {
            "jobs": [config.dump(self._job(key).config) for key in self._jobs],
            "sizes": [self._files[key].files.sizes for key in self._jobs],
            "halving": self._rungs,
            "versions": metadata.versions(),
            "n_resumed": self._n_resumed,
            "leg": self._leg,
            "spans": [leg.span for leg in self._legs[: self._leg + 1]],
            "spent": self._spent,
            "groups": [one and one.numbers for one in taken],
            "outcomes": numbers,
        }
        for g, one in enumerate(taken):
            arrays |= {
                f"{g}/{name}": values for name, values in (one.arrays if one else {}).items()
            }
        self._store.save(step, meta, arrays)

    def _check(self, saved: checkpoint.SavedCheckpoint, n_together: int) -> dict[str, np.ndarray]:
        """The arrays of a checkpoint to resume from, before anything is written.

        Raises:
          ConfigError: they are damaged, of another program, too many, or later than the end.
        """
        compatibility.check_progress(saved, self._groups, None if self._rungs else n_together)
        for key, size in zip(self._jobs, saved.meta["sizes"], strict=True):
            storage.check_sizes(
                self._job(key).path, size, (*storage.KEYS, *self._compiled[key[0]].columns)
            )
        arrays = saved.load()
        for g, compiled in enumerate(self._compiled):
            if own := parameters.below(f"{g}/", arrays):
                compatibility.check_arrays(compiled.members, own, saved.path)
        return arrays

    def _restore(self, meta: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Puts everything where it was when a checkpoint was made."""
        self._leg, self._n_resumed = meta["leg"], meta["n_resumed"] + 1
        self._spent = [tuple(pair) for pair in meta["spent"]]
        for number, outcome in outcomes.unpack(meta["outcomes"], arrays).items():
            self._outcomes[self._jobs[number]] = outcome
        parts = [parameters.below(f"{g}/", arrays) for g in range(len(self._groups))]
        arrays.clear()
        for g, numbers in enumerate(meta["groups"]):
            if numbers is None:
                continue
            now = self._make(g, tuple(numbers["span"]))
            members = self._compiled[g].of(numbers["members"]) if numbers["members"] else None
            snapshot = loop.Snapshot(numbers, parts[g])
            if now.restore(members, snapshot, self._n_resumed, self._stopping):
                self._display.note("resume: the checkpoint has no replay; it was collected anew")
