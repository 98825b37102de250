"""Successive halving: at each rung the better settings go on, in a smaller population.

Reference: Jamieson & Talwalkar 2016, Algorithm 1. Deviation: the best `keep` of all settings that
train together go on, whatever `keep` is, and the rungs are the caller's.
"""

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from qmix_jax import config, population
from qmix_jax.runtime import (
    checkpoint,
    course,
    loop,
    progress,
    record,
    resuming,
    rows,
    scores,
    sinks,
    training,
)  # fmt: skip

_KNOBS = "lower hydra.sweeper.batch or seeds, or what `qmix-jax plan` shows to be large"


class Halving(NamedTuple):
    """Attributes:
    rungs: rising fractions of a run, each above 0 and below 1.
    keep: share of the settings that goes on after each rung, above 0 and below 1; at least one.
    """

    rungs: tuple[float, ...]
    keep: float = 0.5

    def survivors(self, n_settings: int) -> int:
        """Of so many, how many go on."""
        return max(1, math.ceil(self.keep * n_settings))


def train(
    groups: Sequence[training.Group],
    halving: Halving,
    objective: scores.Objective,
    programs: training.Programs,
    display: progress.Progress,
    stop: Callable[[], bool],
) -> list[training.Trained]:
    """Trains all groups from rung to rung, comparing all their jobs at each.

    Raises:
      ConfigError: the members of all groups do not fit into memory together; rungs that fall
        together.
    """
    every = [job for group in groups for job in group.jobs]
    with checkpoint.Store(every[0].path, every[0].config.checkpoint, display.note) as store:
        saved = resuming.saved(every, display.note, halving=True)
        compiled = [_compile(group, programs, display) for group in groups]
        _check_memory(
            [(group, members) for group, (members, _) in zip(groups, compiled, strict=True)]
        )
        tracks = [
            _Track(group, *made, programs, display, stop, store.path)
            for group, made in zip(groups, compiled, strict=True)
        ]
        race = _Race(tracks, halving, objective, display, stop, store)
        arrays = race.check(saved) if saved else {}
        with contextlib.ExitStack() as stack:
            race.open(stack, saved)
            race.run(saved, arrays)
        if not stop():
            store.end()
    return [track.finish() for track in tracks]


class _Track:
    """A group on its way: its run and those of its jobs that are still in it."""

    def __init__(
        self,
        group: training.Group,
        members: population.Population,
        compile_s: float,
        programs: training.Programs,
        display: progress.Progress,
        stop: Callable[[], bool],
        checkpoints: pathlib.Path,
    ) -> None:
        """`members` are all of the group's; `checkpoints` is the folder of all groups' own."""
        self.group, self._programs, self._display = group, programs, display
        self.members, self._compile_s, self._stop = members, compile_s, stop
        self._checkpoints = checkpoints
        self._records = [
            record.Record(job.config, job.path, job.command, group.program, self.members)
            for job in group.jobs
        ]
        self.files: list[rows.JobRows] = []
        self.alive = list(range(len(group.jobs)))
        self._outcomes: dict[int, loop.Outcome] = {}
        self.run: loop.Run | None = None

    def open(self, stack: contextlib.ExitStack, saved: checkpoint.Saved | None, first: int) -> None:
        """Opens the files of every job; `first` is the group's first job in a checkpoint."""
        self.files = course.open_files(stack, self.group, self.members, self._display, saved, first)

    def begin(self, save: Callable[[loop.Run, bool], None]) -> None:
        """Makes the members of every job."""
        for job, item in zip(self.group.jobs, self._records, strict=True):
            item.begin(self._compile_s, resuming.history(job.path, self._checkpoints))
        self.run = self._make_run(save)
        self.run.begin()

    def restore(
        self,
        save: Callable[[loop.Run, bool], None],
        meta: Mapping[str, Any],
        number: int,
        arrays: dict[str, np.ndarray],
        n_resumed: int,
    ) -> None:
        """Goes on as track `number` of a checkpoint; jobs that had ended are read back."""
        found = meta["tracks"][number]
        self.alive = found["alive"]
        for i, job in enumerate(self.group.jobs):
            if i in self.alive:
                reached = self.group.program.plan.env_steps_at(found["run"]["update"])
                more = resuming.history(job.path, self._checkpoints, reached)
                self._records[i].begin(self._compile_s, more)
            else:
                self._outcomes[i] = record.read_outcome(job.path)
        if not self.alive:
            return
        rest = self._rest()
        self._narrow_members(rest)
        self.run = self._make_run(save)
        own = course.Bound(self.members, rest.seeds, rest.hparams, rest.program.plan)
        if course.restore(self.run, own, loop.Snapshot(found["run"], arrays), n_resumed):
            self._display.note(course.REFILLED)

    def snapshot(self, number: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What `restore` needs."""
        if self.run is None:
            return {"alive": [], "run": None}, {}
        taken = self.run.snapshot(course.keeps_replay(self.group.config.checkpoint, self.run))
        arrays = {f"{number}/{name}": values for name, values in taken.arrays.items()}
        return {"alive": self.alive, "run": taken.numbers}, arrays

    @property
    def env_steps(self) -> int:
        """Of one of its members so far."""
        plan = self.group.program.plan
        return plan.env_steps if self.run is None else plan.env_steps_at(self.run.update)

    def proceed(self, update: int) -> None:
        """Trains those still in the race."""
        if self.run is not None:
            self.run.proceed(update)

    def scores(self, objective: scores.Objective) -> dict[int, float]:
        """Of each job still in the race; NaN where it cannot be said."""
        return {
            job: objective.of(sinks.read_metrics(self.group.jobs[job].path / "metrics.csv"))
            for job in self.alive
        }

    def keep(self, jobs: Sequence[int]) -> None:
        """Ends all other jobs here and gathers the members of these into a smaller population."""
        if list(jobs) == self.alive or self.run is None:
            return
        self._close([job for job in self.alive if job not in jobs], pruned=True)
        spans = self._spans()
        kept = [member for job in jobs for member in range(*spans[job])]
        self.alive = list(jobs)
        if not jobs:
            self.run = None  # and with it the members' states
            return
        self._narrow_members(self._rest())
        self.run.narrow(kept, self.members, self._rows())

    def finish(self) -> training.Trained:
        """Ends the jobs that are left."""
        self._close(self.alive, pruned=False)
        outcomes = [self._outcomes[job] for job in range(len(self.group.jobs))]
        train_s = max(outcome.train_s for outcome in outcomes)
        eval_s = max(outcome.eval_s for outcome in outcomes)
        return training.Trained(outcomes, self.members, self._compile_s, train_s, eval_s)

    def _rest(self) -> training.Group:
        """The jobs still in the race."""
        return self.group._replace(jobs=[self.group.jobs[job] for job in self.alive])

    def _narrow_members(self, rest: training.Group) -> None:
        self.members, seconds = _compile(rest, self._programs, self._display)
        self._compile_s += seconds

    def _make_run(self, save: Callable[[loop.Run, bool], None]) -> loop.Run:
        plan, seeds = self.group.program.plan, self._rest().seeds
        return loop.Run(
            self.members, plan, seeds, self._rows(), self._display, self._stop, save=save
        )

    def _close(self, jobs: Sequence[int], pruned: bool) -> None:
        if not jobs or self.run is None:
            return
        whole, spans = self.run.outcome(), self._spans()
        for job in jobs:
            self._outcomes[job] = whole.of(*spans[job], pruned=pruned)
            self._records[job].finish(self._outcomes[job])

    def _spans(self) -> dict[int, tuple[int, int]]:
        """Where the members of each job are in the run: from, and up to but not including."""
        sizes = [self.group.jobs[job].config.seeds for job in self.alive]
        ends = np.cumsum(sizes).tolist()
        return {
            job: (end - size, end) for job, size, end in zip(self.alive, sizes, ends, strict=True)
        }

    def _rows(self) -> sinks.Shared:
        return sinks.Shared(
            [
                self.files[job]
                for job in self.alive
                for _ in range(self.group.jobs[job].config.seeds)
            ]
        )


class _Race:
    """All tracks, from rung to rung and then to the end, with checkpoints of all together."""

    def __init__(
        self,
        tracks: Sequence[_Track],
        halving: Halving,
        objective: scores.Objective,
        display: progress.Progress,
        stop: Callable[[], bool],
        store: checkpoint.Store,
    ) -> None:
        """Nothing is trained yet."""
        self._tracks, self._halving, self._objective = tracks, halving, objective
        self._display, self._stop, self._store = display, stop, store
        self._level = self._n_resumed = 0

    def open(self, stack: contextlib.ExitStack, saved: checkpoint.Saved | None) -> None:
        """Opens the files of all jobs."""
        first = 0
        for track in self._tracks:
            track.open(stack, saved, first)
            first += len(track.group.jobs)

    def check(self, saved: checkpoint.Saved) -> dict[str, np.ndarray]:
        """The arrays of what is to go on. Raises: ConfigError where it cannot, before any write."""
        every = [job for track in self._tracks for job in track.group.jobs]
        course.refuse_longer(saved.meta, every, "settings end at rungs")
        sizes = iter(saved.meta["sizes"])
        for track in self._tracks:
            own = [next(sizes) for _ in track.group.jobs]
            course.check_files(track.group, track.members, own)
        arrays = saved.load()
        for number, track in enumerate(self._tracks):
            if own := _of_track(number, arrays):
                course.check_arrays(track.members, own, saved.path)
        return arrays

    def run(self, saved: checkpoint.Saved | None, arrays: dict[str, np.ndarray]) -> None:
        """Trains to the end or an interruption, from the beginning or a checkpoint."""
        plans = [track.group.program.plan for track in self._tracks]
        rungs = [plan.rungs(self._halving.rungs) for plan in plans]
        if saved is not None:
            self._level, self._n_resumed = saved.meta["level"], saved.meta["n_resumed"] + 1
        for number, track in enumerate(self._tracks):
            if saved is None:
                track.begin(self._save)
            else:
                snapshot = _of_track(number, arrays)
                track.restore(self._save, saved.meta, number, snapshot, self._n_resumed)
        arrays.clear()
        for level in range(self._level, len(self._halving.rungs)):
            _proceed(self._tracks, [updates[level] for updates in rungs])
            if self._stop():
                self._save(None, True)
                return
            self._display.note(f"rung {level + 1}, {self._halving.rungs[level]:.0%} of the run")
            _halve(self._tracks, self._halving, self._objective, self._display)
            self._level = level + 1
        _proceed(self._tracks, [plan.n_updates for plan in plans])

    def _save(self, run: loop.Run | None, last: bool) -> None:
        """A checkpoint of all tracks, if it is time for one, whichever of their runs asks."""
        del run
        step = self._level + sum(track.env_steps for track in self._tracks)
        begun = all(track.run is not None or not track.alive for track in self._tracks)
        if not begun or not self._store.wants(step, last):
            return
        meta, arrays = [], {}
        for number, track in enumerate(self._tracks):
            told, own = track.snapshot(number)
            meta.append(told)
            arrays |= own
        every = [job for track in self._tracks for job in track.group.jobs]
        files = [one for track in self._tracks for one in track.files]
        about = course.about(every, files, self._n_resumed)
        self._store.save(step, {**about, "level": self._level, "tracks": meta}, arrays)


def _of_track(number: int, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of one track of a checkpoint."""
    prefix = f"{number}/"
    own = {name: values for name, values in arrays.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): values for name, values in own.items()}


def _proceed(tracks: Sequence[_Track], updates: Sequence[int]) -> None:
    for track, update in zip(tracks, updates, strict=True):
        track.proceed(update)


class _Place(NamedTuple):
    """A job of a track and its score."""

    score: float
    track: _Track
    job: int


def _rank(tracks: Sequence[_Track], objective: scores.Objective) -> list[_Place]:
    """All jobs still in the race, the best first."""
    found = [
        _Place(score, track, job)
        for track in tracks
        for job, score in track.scores(objective).items()
    ]
    sign = -1 if objective.maximise else 1
    return sorted(found, key=lambda place: (math.isnan(place.score), sign * place.score))


def _halve(
    tracks: Sequence[_Track],
    halving: Halving,
    objective: scores.Objective,
    display: progress.Progress,
) -> None:
    """Keeps the best jobs of all tracks."""
    ranked = _rank(tracks, objective)
    n_kept = halving.survivors(len(ranked))
    for track in tracks:
        kept = {place.job for place in ranked[:n_kept] if place.track is track}
        track.keep([job for job in track.alive if job in kept])
    dropped = ", ".join(f"{place.score:.4g}" for place in ranked[n_kept:])
    display.note(
        f"{n_kept} of {progress.count(len(ranked), 'setting')} go on, the last of them at "
        f"{ranked[n_kept - 1].score:.4g}; dropped: {dropped or 'none'}"
    )


def _compile(
    group: training.Group, programs: training.Programs, display: progress.Progress
) -> tuple[population.Population, float]:
    """(population, seconds). Raises: ConfigError where not all members fit together."""
    started = time.perf_counter()
    members, together = programs.get(group, display)
    if together < len(group.seeds):
        raise config.ConfigError(
            f"memory: successive halving keeps all members, but of {len(group.seeds)} only "
            f"{together} fit; {_KNOBS}"
        )
    return members, time.perf_counter() - started


def _check_memory(made: Sequence[tuple[training.Group, population.Population]]) -> None:
    needed = sum(training.bytes_of(group, members) for group, members in made)
    limit = min(training.memory_limit(group) for group, _ in made)
    if needed > limit:
        human = progress.human
        raise config.ConfigError(
            f"memory: successive halving keeps the members of all {len(made)} programs at once, "
            f"{human(needed)}B, but there are {human(limit)}B; {_KNOBS}"
        )
