"""Successive halving: at each rung the better settings go on, in a smaller population.

Reference: Jamieson & Talwalkar 2016, Algorithm 1. Deviation: the best `keep` of all settings that
train together go on, whatever `keep` is, and the rungs are the caller's.
"""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from qmix_jax import config, population
from qmix_jax.runtime import loop, progress, record, rows, scores, sinks, training

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
    compiled = [_compile(group, programs, display) for group in groups]
    _check_memory([(group, members) for group, (members, _) in zip(groups, compiled, strict=True)])
    with contextlib.ExitStack() as stack:
        tracks = [
            _Track(group, *made, programs, display, stop, stack)
            for group, made in zip(groups, compiled, strict=True)
        ]
        _race(tracks, halving, objective, display, stop)
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
        stack: contextlib.ExitStack,
    ) -> None:
        """Opens the files of every job of the group."""
        self.group, self._programs, self._display = group, programs, display
        self.members, self._compile_s = members, compile_s
        names = loop.columns(self.members.metric_names, group.program.spec.metric_names)
        self._files, failed = [], set()
        for job in group.jobs:
            mine = rows.open_rows(job.config, job.path, names, display.note, failed=failed)
            self._files.append(stack.enter_context(mine))
        self._records = [
            record.Record(job.config, job.path, job.command, group.program, self.members)
            for job in group.jobs
        ]
        for item in self._records:
            item.begin(compile_s)
        self.alive = list(range(len(group.jobs)))
        self._outcomes: dict[int, loop.Outcome] = {}
        plan, shared = group.program.plan, self._rows()
        self.run = loop.Run(self.members, plan, group.seeds, shared, display, stop)

    def proceed(self, update: int) -> None:
        """Trains those still in the race."""
        if self.alive:
            self.run.proceed(update)

    def scores(self, objective: scores.Objective) -> dict[int, float]:
        """Of each job still in the race; NaN where it cannot be said."""
        return {
            job: objective.of(sinks.read_metrics(self.group.jobs[job].path / "metrics.csv"))
            for job in self.alive
        }

    def keep(self, jobs: Sequence[int]) -> None:
        """Ends all other jobs here and gathers the members of these into a smaller population."""
        if list(jobs) == self.alive:
            return
        self._close([job for job in self.alive if job not in jobs], pruned=True)
        spans = self._spans()
        kept = [member for job in jobs for member in range(*spans[job])]
        self.alive = list(jobs)
        if not jobs:
            del self.run  # and with it the members' states
            return
        rest = self.group._replace(jobs=[self.group.jobs[job] for job in jobs])
        self.members, seconds = _compile(rest, self._programs, self._display)
        self._compile_s += seconds
        self.run.narrow(kept, self.members, self._rows())

    def finish(self) -> training.Trained:
        """Ends the jobs that are left."""
        self._close(self.alive, pruned=False)
        outcomes = [self._outcomes[job] for job in range(len(self.group.jobs))]
        train_s = max(outcome.train_s for outcome in outcomes)
        eval_s = max(outcome.eval_s for outcome in outcomes)
        return training.Trained(outcomes, self.members, self._compile_s, train_s, eval_s)

    def _close(self, jobs: Sequence[int], pruned: bool) -> None:
        if not jobs:
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
                self._files[job]
                for job in self.alive
                for _ in range(self.group.jobs[job].config.seeds)
            ]
        )


def _race(
    tracks: Sequence[_Track],
    halving: Halving,
    objective: scores.Objective,
    display: progress.Progress,
    stop: Callable[[], bool],
) -> None:
    """From rung to rung, and then to the end."""
    plans = [track.group.program.plan for track in tracks]
    rungs = [plan.rungs(halving.rungs) for plan in plans]
    for track in tracks:
        track.run.begin()
    for level, fraction in enumerate(halving.rungs):
        _proceed(tracks, [updates[level] for updates in rungs])
        if stop():
            return
        display.note(f"rung {level + 1}, {fraction:.0%} of the run")
        _halve(tracks, halving, objective, display)
    _proceed(tracks, [plan.n_updates for plan in plans])


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
    needed = sum(len(group.seeds) * members.memory.kept for group, members in made)
    limit = min(training.memory_limit(group) for group, _ in made)
    if needed > limit:
        human = progress.human
        raise config.ConfigError(
            f"memory: successive halving keeps the members of all {len(made)} programs at once, "
            f"{human(needed)}B, but there are {human(limit)}B; {_KNOBS}"
        )
