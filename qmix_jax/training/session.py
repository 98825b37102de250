"""A session trains groups of jobs: open, restore, step (train, evaluate, checkpoint), close."""

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

_Key = tuple[int, int]
"""(group, job in the group)."""


class Session(contextlib.AbstractContextManager["Session"]):
    """A run in training, or a group of runs, driven step by step.

    All members train together to the end, or in slices if memory is short, or from rung to rung of
    a successive halving. After an exception the run directories are as after a crash: the runs
    resume from their last checkpoint.

        with qmix_jax.start(cfg) as session:
            while session.step():
                print(session.env_steps)
        result = session.result()

    A session from `start` has one run; in a session of several, `config`, `metrics`, `result` and
    other properties of a run are those of the first.
    """

    def __init__(
        self,
        groups: Sequence[jobs.Group],
        compiled: programs.Programs,
        display: progress.Progress,
        should_stop: Callable[[], bool],
        stack: contextlib.ExitStack,
        rungs: halving.Halving | None = None,
        objective: scores.Objective = scores.Objective(),  # noqa: B008
    ) -> None:
        """Compiles, opens the claimed run directories, and restores the last checkpoint, if any.

        Args:
          groups: one, or several with `rungs`.
          compiled: cache of compiled programs.
          should_stop: whether a signal asks to end early.
          stack: closed with the session, or on an error.
          rungs: of the successive halving, if any, which compares jobs by `objective`.
        Raises:
          ConfigError: memory is too small, or the checkpoint cannot be resumed.
        """
        self._groups, self._programs = groups, compiled
        self._display, self._should_stop, self._stack = display, should_stop, stack
        self._rungs, self._objective = rungs, objective
        self._stop_requested = self._closed = self._interrupted = False
        self._keys = [(g, i) for g, group in enumerate(groups) for i in range(len(group.jobs))]
        self._trainings: list[loop.Training | None] = [None] * len(groups)
        self._outcomes: dict[_Key, outcomes.Outcome] = {}
        self._manifests: dict[_Key, dict[str, Any]] = {}
        self._rows: dict[_Key, rows.JobRows] = {}
        self._finished: set[_Key] = set()
        self._earlier_s = [(0.0, 0.0) for _ in groups]  # training and evaluation of ended slices
        self._segment = self._n_resumed = 0
        with self._close_on_error():
            self._open()

    # Opening

    def _open(self) -> None:
        runs = [self._job(key) for key in self._keys]
        settings, note = runs[0].config.checkpoint, self._display.note
        self._files = self._stack.enter_context(contextlib.ExitStack())
        self._store = self._files.enter_context(
            checkpoint.CheckpointStore(runs[0].path, settings, note)
        )
        saved = compatibility.find_checkpoint(runs, note, self._rungs)
        gather = self._rungs is not None
        self._compiled = [
            programs.CompiledPopulation(group, self._programs, self._display, gather)
            for group in self._groups
        ]
        if gather:
            programs.check_together(self._compiled)
        n_fit = self._compiled[0].n_fit
        arrays = self._load(saved, n_fit) if saved else {}
        started = [tuple(span) for span in saved.meta["spans"]] if saved else []
        self._schedule = (
            schedule.rungs(self._groups, self._rungs)
            if self._rungs
            else schedule.slices(self._groups[0], started, n_fit)
        )
        if self._sliced:
            spans = [segment.span for segment in self._schedule]
            stopping.check_slices(self._groups[0], spans)
        self._begin_records(saved)
        self._open_rows(saved.meta["sizes"] if saved else [None] * len(runs))
        if saved is not None:
            self._restore(saved.meta, arrays)
        else:
            self._begin(self._schedule[0])

    def _load(self, saved: checkpoint.SavedCheckpoint, n_fit: int) -> dict[str, np.ndarray]:
        """Returns the arrays of a checkpoint, and checks it before anything is written."""
        compatibility.check_progress(saved, self._groups, None if self._rungs else n_fit)
        for key, sizes in zip(self._keys, saved.meta["sizes"], strict=True):
            columns = self._compiled[key[0]].columns
            storage.check_resumable(self._job(key).path, sizes, columns)
        arrays = saved.load()
        for g, compiled in enumerate(self._compiled):
            if group_arrays := parameters.below(f"{g}/", arrays):
                compatibility.check_arrays(compiled.members, group_arrays, saved.path)
        return arrays

    def _begin_records(self, saved: checkpoint.SavedCheckpoint | None) -> None:
        """Writes configuration and manifest of the runs that have not ended."""
        ended = saved.meta["outcomes"] if saved and not self._sliced else {}
        for number, (g, i) in enumerate(self._keys):
            if str(number) in ended:
                self._finished.add((g, i))
                continue
            group, env_steps = self._groups[g], None
            if saved is not None:
                training = saved.meta["groups"][g]
                env_steps = group.program.plan.env_steps_at(training["update"]) if training else 0
            history = compatibility.manifest_history(
                group.jobs[i].path, self._store.path, env_steps
            )
            compiled = self._compiled[g]
            self._manifests[g, i] = record.begin(
                group, group.jobs[i], compiled.members, compiled.seconds, history
            )

    def _open_rows(self, sizes: Sequence[Sequence[int] | None]) -> None:
        """Opens the files and loggers of each run; `sizes`: of its files at the checkpoint."""
        failed: set[str] = set()
        for key, file_sizes in zip(self._keys, sizes, strict=True):
            job, columns = self._job(key), self._compiled[key[0]].columns
            opened = rows.open_rows(
                job.config, job.path, columns, self._display.note, file_sizes, failed
            )
            self._rows[key] = self._files.enter_context(opened)

    def _restore(self, meta: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Continues from a checkpoint."""
        self._segment, self._n_resumed = meta["leg"], meta["n_resumed"] + 1
        self._earlier_s = [tuple(pair) for pair in meta["spent"]]
        for number, outcome in outcomes.unpack(meta["outcomes"], arrays).items():
            self._outcomes[self._keys[number]] = outcome
        group_arrays = [parameters.below(f"{g}/", arrays) for g in range(len(self._groups))]
        arrays.clear()
        for g, fields in enumerate(meta["groups"]):
            if fields is None:
                continue
            training = self._new_training(g, tuple(fields["span"]))
            members = self._compiled[g].select(fields["members"]) if fields["members"] else None
            snapshot = loop.Snapshot(fields, group_arrays[g])
            if training.restore(members, snapshot, self._n_resumed, self._stopping):
                self._display.note("resume: the checkpoint has no replay; a new one was collected")

    def _begin(self, segment: schedule.Segment) -> loop.Training:
        """Initialises the members of a segment."""
        training = self._new_training(segment.group, segment.span)
        training.begin(self._compiled[segment.group].select(training.members))
        return training

    def _new_training(self, g: int, span: tuple[int, int]) -> loop.Training:
        group_rows = [self._rows[g, i] for i in range(len(self._groups[g].jobs))]
        training = loop.Training(self._groups[g], span, group_rows, self._display)
        self._trainings[g] = training
        return training

    # Training

    def step(self) -> bool:
        """Trains for one chunk of a few seconds, then writes due rows, evaluations and checkpoints;
        returns False if nothing is left to train.
        """
        with self._close_on_error():
            if (due := self._next_training()) is None:
                return False
            training, until = due
            training.step(until, self._stopping)
            self._save(last=training.over)
            return True

    def _next_training(self) -> tuple[loop.Training, int] | None:
        """Returns (training to step, update to reach), after ending finished jobs and segments."""
        while self._segment < len(self._schedule) and not self._closed:
            segment = self._schedule[self._segment]
            training = self._trainings[segment.group] or self._begin(segment)
            if verdicts := training.verdicts():
                self._stop_jobs(segment.group, verdicts)
                continue
            if training.reached(segment.until):
                self._end_segment(segment)
                continue
            if not self._stopping():
                return training, segment.until
            self._interrupt(training)
        return None

    def _stopping(self) -> bool:
        return self._stop_requested or self._should_stop()

    def _end_segment(self, segment: schedule.Segment) -> None:
        self._segment += 1
        if segment.rung is not None:
            self._halve(segment.rung)
        elif self._segment < len(self._schedule) and self._sliced:
            self._end_slice(segment.group)

    def _halve(self, rung: int) -> None:
        """Ends the worse jobs of all groups at a rung."""
        assert self._rungs is not None
        job_scores = {
            (g, i): self._objective.score(
                storage.read_metrics(self._job((g, i)).path / "metrics.csv")
            )
            for g, training in enumerate(self._trainings)
            for i in (training.jobs if training else ())
        }
        ranked = halving.ranked(job_scores, self._objective.maximise)
        if not ranked:
            return
        n_best = self._rungs.survivors(len(ranked))
        for g in range(len(self._groups)):
            self._end_jobs(g, [i for group, i in ranked[n_best:] if group == g], pruned=True)
        dropped = ", ".join(f"{job_scores[key]:.4g}" for key in ranked[n_best:])
        self._display.note(
            f"rung {rung + 1}, {self._rungs.rungs[rung]:.0%} of the run: {n_best} of "
            f"{progress.count(len(ranked), 'setting')} continue, the last of them at "
            f"{job_scores[ranked[n_best - 1]]:.4g}; dropped: {dropped or 'none'}"
        )

    def _stop_jobs(self, g: int, verdicts: Mapping[int, str]) -> None:
        """Ends jobs by their stop rules."""
        for i, verdict in verdicts.items():
            job = self._groups[g].jobs[i]
            name = f"{job.label or job.path}: " if len(self._keys) > 1 else ""
            self._display.note(f"{name}ended by {verdict}")
        self._end_jobs(g, list(verdicts))

    def _interrupt(self, training: loop.Training) -> None:
        """Ends early with a checkpoint; initialises waiting members, so that results have all."""
        self._save(last=True)  # before rows that an uninterrupted run would not have
        self._interrupted = True
        training.write_train_row()
        for segment in self._schedule[self._segment + 1 :]:
            started = self._trainings[segment.group]
            if started is not None and started.span != segment.span:
                self._end_slice(segment.group)
            if self._trainings[segment.group] is None:
                self._begin(segment)
        self._segment = len(self._schedule)

    def _end_slice(self, g: int) -> None:
        training = self._trainings[g]
        assert training is not None, "the slice has started"
        self._end_jobs(g, training.jobs)
        self._earlier_s[g] = self.seconds(g)[1:]
        self._trainings[g] = None

    def _end_jobs(self, g: int, chosen: Sequence[int], pruned: bool = False) -> None:
        """Ends jobs of a group now; the others continue in a smaller population."""
        training = self._trainings[g]
        if not chosen or training is None:
            return
        for i, outcome in training.outcomes(chosen, pruned).items():
            earlier = self._outcomes.get((g, i))
            self._outcomes[g, i] = outcomes.concatenate([earlier, outcome]) if earlier else outcome
        owners = self._groups[g].owners
        others = [member for member in training.members if owners[member] not in chosen]
        training.select(others, self._compiled[g].select(others) if others else None)
        if not self._sliced:
            self._finish([(g, i) for i in chosen])

    # Checkpoints

    def save(self) -> None:
        """Saves a checkpoint, unless this update has one. Raises: ConfigError if disabled."""
        if not self.config.checkpoint.enabled:
            raise config.ConfigError("session: save() needs checkpoint.enabled=true")
        if self._segment < len(self._schedule) and not self._closed:
            with self._close_on_error():
                self._save(last=True)

    def _save(self, last: bool) -> None:
        """Saves a checkpoint if one is due, or it is the `last` one."""
        # Numbered by the env steps of all groups, earlier slices included, plus the segments done.
        n_slices = self._segment if self._sliced else 0
        step = self._segment + sum(
            n_slices * group.program.plan.env_steps + (training.env_steps if training else 0)
            for group, training in zip(self._groups, self._trainings, strict=True)
        )
        if not self._store.due(step, last):
            return
        snapshots = [training and training.snapshot() for training in self._trainings]
        ended = {self._keys.index(key): outcome for key, outcome in self._outcomes.items()}
        outcome_fields, arrays = outcomes.pack(ended)
        meta = {
            "jobs": [config.dump(self._job(key).config) for key in self._keys],
            "sizes": [self._rows[key].files.sizes for key in self._keys],
            "halving": self._rungs,
            "versions": metadata.versions(),
            "n_resumed": self._n_resumed,
            "leg": self._segment,
            "spans": [segment.span for segment in self._schedule[: self._segment + 1]],
            "spent": self._earlier_s,
            "groups": [snapshot and snapshot.fields for snapshot in snapshots],
            "outcomes": outcome_fields,
        }
        for g, snapshot in enumerate(snapshots):
            arrays |= {
                f"{g}/{name}": x for name, x in (snapshot.arrays if snapshot else {}).items()
            }
        self._store.save(step, meta, arrays)

    # Ending

    def stop(self) -> None:
        """Ends the run early, as Ctrl-C does: the next `step` saves and returns False, and the
        result is `interrupted`.
        """
        self._stop_requested = True

    def close(self) -> None:
        """Ends the session, early if there is more to train, and writes the final files."""
        if self._closed:
            return
        with self._close_on_error():
            self._stop_requested |= self._segment < len(self._schedule)
            while self.step():
                pass
            if not self._interrupted:
                self._store.remove_old()
            self._files.close()
            for g, training in enumerate(self._trainings):
                self._end_jobs(g, training.jobs if training else ())
            self._finish([key for key in self._keys if key not in self._finished])
        self._closed = True
        self._stack.close()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None:
            self.close()
        elif not self._closed:
            self._closed = True
            self._stack.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def _close_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def _finish(self, keys: Sequence[_Key]) -> None:
        """Writes the final files of jobs."""
        for key in keys:
            if self._sliced and not self._interrupted:  # interrupted: resumes with these rows
                storage.sort_rows(self._job(key).path)
            record.finish(self._job(key), self._manifests[key], self._outcomes[key])
            self._finished.add(key)

    # Reading

    def evaluate(self) -> dict[str, np.ndarray]:
        """Evaluates the members now: `eval/<name>` -> f32[P].

        Plays the episodes of a scheduled evaluation, but writes nothing and leaves
        `best_parameters` unchanged.
        """
        if self._active is None:
            raise config.ConfigError("session: it has ended; nothing is in training")
        return self._active.evaluation()

    @property
    def config(self) -> config.ExperimentConfig:
        """The configuration of the run."""
        return self._groups[0].config

    @property
    def plan(self) -> plan.Plan:
        """Derived sizes and counts of the run, for example `n_updates`."""
        return self._groups[0].program.plan

    @property
    def program(self) -> program.Program:
        """The pure functions of one member, for example to inspect `parameters`."""
        return self._groups[0].program

    @property
    def directory(self) -> pathlib.Path:
        """The run directory."""
        return self._groups[0].jobs[0].path

    @property
    def update(self) -> int:
        """Updates done, by the members in training."""
        return max(self._active.update, 0) if self._active else self._outcomes[0, 0].update

    @property
    def env_steps(self) -> int:
        """Env steps done, by each member in training, warm-up included."""
        return self._active.env_steps if self._active else self._outcomes[0, 0].env_steps

    @property
    def parameters(self) -> Any:
        """A host copy of the online parameters, a nested dict of arrays [P, ...].

        P are the members in training (a slice if memory is short), after `close` all members. The
        states on the devices are donated to the next step.
        """
        return self._active.parameters() if self._active else self._outcomes[0, 0].parameters

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """The rows so far: columns of `metrics.csv` -> array with one entry per row."""
        return storage.read_metrics(self.directory / "metrics.csv")

    def result(self) -> results.Result:
        """The result of the run; closes the session."""
        return self.results(0)[0]

    def results(self, group: int) -> list[results.Result]:
        """The result of each run of a group; closes the session."""
        self.close()
        if (group, 0) not in self._outcomes:
            raise config.ConfigError(
                "session: it ended with an error and has no result; resume it from its directory"
            )
        return [
            results.make(
                job, self._outcomes[group, i], self._groups[group].program, self._objective
            )
            for i, job in enumerate(self._groups[group].jobs)
        ]

    def seconds(self, group: int) -> outcomes.WallTime:
        """Wall time of a group so far."""
        training = self._trainings[group]
        now = training.seconds if training else (0.0, 0.0)
        pairs = zip(self._earlier_s[group], now, strict=True)
        return outcomes.WallTime(self._compiled[group].seconds, *map(sum, pairs))

    @property
    def _active(self) -> loop.Training | None:
        """The training of the first group, if members are in training."""
        training = self._trainings[0]
        return training if training and training.members else None

    @property
    def _sliced(self) -> bool:
        return self._rungs is None and len(self._schedule) > 1

    def _job(self, key: _Key) -> jobs.Job:
        return self._groups[key[0]].jobs[key[1]]
