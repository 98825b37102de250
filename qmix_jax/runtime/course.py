"""The members of a group from begin to end, all together or slice by slice, with checkpoints."""

import contextlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from qmix_jax import config, population
from qmix_jax import plan as plans
from qmix_jax.core import schedules
from qmix_jax.runtime import (
    checkpoint,
    jobs,
    loop,
    parameters,
    progress,
    provenance,
    rows,
    sinks,
)  # fmt: skip
from qmix_jax.types import HParams

REFILLED = "resume: the checkpoint has no replay; it was collected anew"


class Bound(NamedTuple):
    """The members of a run, what they were bound to, and the run's arithmetic."""

    members: population.Population
    seeds: Sequence[int]
    hparams: Sequence[HParams]
    plan: plans.Plan


class Course:
    """One group on its way; its compiled members, its files, and its checkpoints."""

    def __init__(
        self,
        group: jobs.Group,
        members: population.Population,
        display: progress.Progress,
        stop: Callable[[], bool],
        store: checkpoint.Store,
    ) -> None:
        """`members` are compiled for as many of the group's as train together at most."""
        self._group, self._members = group, members
        self._display, self._stop, self._store = display, stop, store
        self._files: list[rows.JobRows] = []
        self._done: loop.Outcome | None = None
        self._span = (0, 0)
        self._n_resumed = self.env_steps = 0

    @property
    def sliced(self) -> bool:
        """Whether members trained one slice after another."""
        return self._span[0] > 0

    def check(self, saved: checkpoint.Saved, n_together: int) -> dict[str, np.ndarray]:
        """The arrays of what is to go on, before anything is written.

        Raises:
          ConfigError: they are damaged, of another program, too many, or later than the end.
        """
        meta, plan = saved.meta, self._group.program.plan
        begin, end = meta["span"]
        if end - begin > n_together:
            raise config.ConfigError(
                f"resume: {end - begin} members trained together, but now only {n_together} fit; "
                "raise population.memory, or free some"
            )
        if begin:
            refuse_longer(meta, self._group.jobs, "members trained in slices")
        if plan.n_updates < meta["run"]["update"]:
            raise config.ConfigError(
                f"resume: trainer.env_steps ends at env step {plan.env_steps:,}, but "
                f"{str(saved.path)!r} is at {plan.env_steps_at(meta['run']['update']):,}; raise it"
            )
        self.env_steps = plan.env_steps_at(meta["run"]["update"])
        check_files(self._group, self._members, meta["sizes"])
        arrays = saved.load()
        check_arrays(self._members, arrays, saved.path)
        return arrays

    def train(
        self, n_together: int, saved: checkpoint.Saved | None, arrays: dict[str, np.ndarray]
    ) -> loop.Outcome:
        """Trains `n_together` members at a time, to their end.

        Args:
          saved: what to go on from, with its arrays, which are let go of once they are in place.
        """
        group = self._group
        with contextlib.ExitStack() as stack:
            self._files = open_files(stack, group, self._members, self._display, saved)
            begin = self._resume(saved, arrays) if saved else 0
            while begin < len(group.seeds):
                begin = self._slice(begin, min(begin + n_together, len(group.seeds)))
        assert self._done is not None, "a group has members"
        if not self._done.interrupted:
            self._store.end()
        return self._done

    def _resume(self, saved: checkpoint.Saved, arrays: dict[str, np.ndarray]) -> int:
        """Goes on with the slice that was under way; the first member after it."""
        meta = saved.meta
        begin, end = meta["span"]
        self._n_resumed = meta["n_resumed"] + 1
        if begin:
            self._done = _outcome(meta["done"], arrays)
        return self._slice(begin, end, loop.Snapshot(meta["run"], arrays))

    def _slice(self, begin: int, end: int, snapshot: loop.Snapshot | None = None) -> int:
        """Trains members `begin` up to, not including, `end`."""
        group = self._group
        self._span = (begin, end)
        seeds, numbers = group.seeds[begin:end], group.hparams[begin:end]
        bound = self._members.rebind(seeds, numbers)
        shared = sinks.Shared([self._files[i] for i in group.owners[begin:end]])
        first = group.first + begin
        plan = group.program.plan
        run = loop.Run(bound, plan, seeds, shared, self._display, self._stop, first, self._save)
        if snapshot is None:
            run.begin()
        elif restore(run, Bound(bound, seeds, numbers, plan), snapshot, self._n_resumed):
            self._display.note(REFILLED)
        run.proceed(plan.n_updates)
        outcome = run.outcome()
        self._done = loop.join([self._done, outcome]) if self._done else outcome
        return end

    def _save(self, run: loop.Run, last: bool) -> None:
        """A checkpoint, if it is time for one."""
        if self._done is not None and self._done.interrupted:
            return  # what is to go on is the slice that was cut short
        group, plan = self._group, self._group.program.plan
        # Slices train one after another: their steps go on from each other's end.
        step = plan.env_steps_at(run.update) + self._span[0] * (plan.env_steps + 1)
        if not self._store.wants(step, last):
            return
        snapshot = run.snapshot(keeps_replay(group.config.checkpoint, run))
        done, arrays = _outcome_snapshot(self._done)
        meta = {
            **about(group.jobs, self._files, self._n_resumed),
            "span": self._span,
            "done": done,
            "run": snapshot.numbers,
        }
        self._store.save(step, meta, {**snapshot.arrays, **arrays})


def open_files(
    stack: contextlib.ExitStack,
    group: jobs.Group,
    members: population.Population,
    display: progress.Progress,
    saved: checkpoint.Saved | None,
    first: int = 0,
) -> list[rows.JobRows]:
    """Where the rows of each run of a group go; those of a checkpoint go on.

    Args:
      first: number of the group's first run in the checkpoint.
    """
    names = loop.columns(members.metric_names, group.program.eval_metrics)
    last = first + len(group.jobs)
    sizes = saved.meta["sizes"][first:last] if saved else [None] * len(group.jobs)
    opened, failed = [], set()
    for job, size in zip(group.jobs, sizes, strict=True):
        mine = rows.open_rows(job.config, job.path, names, display.note, size, failed)
        opened.append(stack.enter_context(mine))
    return opened


def about(
    runs: Sequence[jobs.Job], files: Sequence[rows.JobRows], n_resumed: int
) -> dict[str, Any]:
    """What a checkpoint says of its runs: settings, files, versions."""
    return {
        "jobs": [config.dump(job.config) for job in runs],
        "sizes": [one.files.sizes for one in files],
        "n_resumed": n_resumed,
        "versions": provenance.versions(),
    }


def keeps_replay(settings: config.Checkpoint, run: loop.Run) -> bool:
    """Whether a checkpoint made now holds the replay."""
    return settings.replay == "always" or (settings.replay == "running" and not run.ended)


def refuse_longer(meta: Mapping[str, Any], runs: Sequence[jobs.Job], why: str) -> None:
    """Raises: ConfigError for runs of which some have ended, where they are to be longer now."""
    for before, job in zip(meta["jobs"], runs, strict=True):
        was, now = before["trainer"]["env_steps"], job.config.trainer.env_steps
        if was != now:
            raise config.ConfigError(
                f"resume: trainer.env_steps={now}, was {was}, but {why}, and the first ones may "
                "have ended; leave it as it was"
            )


def check_files(
    group: jobs.Group, members: population.Population, sizes: Sequence[Sequence[int]]
) -> None:
    """Raises: ConfigError where rows that a checkpoint counts on are gone."""
    names = loop.columns(members.metric_names, group.program.eval_metrics)
    for job, size in zip(group.jobs, sizes, strict=True):
        sinks.check_sizes(job.path, size, (*sinks.KEYS, *names))


def check_arrays(
    members: population.Population, arrays: Mapping[str, np.ndarray], path: pathlib.Path
) -> None:
    """Raises: ConfigError for arrays of another program."""
    try:
        members.check(arrays)
    except ValueError as error:
        raise config.ConfigError(
            f"resume: {str(path)!r} is not of this program ({error}); remove the folder "
            f"{checkpoint.FOLDER!r} to begin anew"
        ) from error


def restore(run: loop.Run, own: Bound, snapshot: loop.Snapshot, n_resumed: int) -> bool:
    """Puts a run where a snapshot was taken, and collects the replay anew if it has none.

    As many sequences as there were are collected, by the policies of now. Their keys are those of
    collects before the warm-up, which no run draws from.

    Args:
      snapshot: its arrays are let go of.
      n_resumed: how often the run has gone on, this time included; it keeps these keys apart.
    Returns:
      Whether the replay is new.
    """
    plan = own.plan
    has_replay = any(name.startswith(population.REPLAY) for name in snapshot.arrays)
    begun = snapshot.numbers["update"] + plan.warm_up_collects
    run.resume(*snapshot)
    snapshot.arrays.clear()
    if has_replay or run.ended or not begun:
        return False
    n_full = plan.capacity * plan.window // plan.steps_per_update
    n_collects = min(run.update + plan.warm_up_collects, n_full)
    exploring = [_constant_epsilon(one, plan.env_steps_at(run.update)) for one in own.hparams]
    first = -plan.warm_up_collects - n_full * n_resumed
    run.refill(own.members.rebind(own.seeds, exploring), first, n_collects)
    return True


def _constant_epsilon(numbers: HParams, env_steps: int) -> HParams:
    """The same numbers, exploring as they do after so many env steps."""
    now = schedules.linear(numbers.epsilon, jnp.float32(env_steps))
    return replace(numbers, epsilon=replace(numbers.epsilon, start=now, end=now))


def _outcome_snapshot(
    outcome: loop.Outcome | None,
) -> tuple[dict[str, Any] | None, dict[str, np.ndarray]]:
    if outcome is None:
        return None, {}
    trees = {"final": outcome.parameters, "best": outcome.best_parameters}
    arrays = {
        f"done/{which}/{name}": values
        for which, tree in trees.items()
        for name, values in parameters.flatten(tree).items()
    }
    return outcome.numbers(), arrays


def _outcome(reached: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> loop.Outcome:
    done = parameters.nest(
        {name: values for name, values in arrays.items() if name.startswith("done/")}
    )["done"]
    return loop.Outcome.made_of(reached, done["final"], done["best"])
