"""The Python face: train configurations, get arrays and paths back."""

import contextlib
import datetime
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from qmix_jax import config, groups, results
from qmix_jax.program import build
from qmix_jax.results import Result, load_run
from qmix_jax.runtime import (
    checkpoint,
    compile_cache,
    devices,
    interrupt,
    processes,
    progress,
    record,
    resuming,
    rows,
    sinks,
    sweep_index,
    tables,
    team,
    training,
)
from qmix_jax.runtime import halving as halvings
from qmix_jax.runtime.halving import Halving
from qmix_jax.runtime.loop import NonFiniteError
from qmix_jax.runtime.scores import Objective
from qmix_jax.runtime.training import Programs

__all__ = [
    "Halving", "Job", "NonFiniteError", "Objective", "Programs", "Result", "load_run", "plan_runs",
    "train", "train_many",
]  # fmt: skip

_COMMAND = "qmix_jax.train"
_STOPPING = "stopping after this call; Ctrl-C again ends at once"


class Job(NamedTuple):
    """One run of several.

    Attributes:
      config: from `qmix_jax.load_config`.
      directory: a new or empty directory; by default `runs/<name>/<algo>/<time>`.
      command: what to record as the command; by default a call of `qmix_jax.train`.
      label: what tells this job from the others, for tables.
    """

    config: config.ExperimentConfig
    directory: str | os.PathLike[str] | None = None
    command: str | None = None
    label: str = ""


def train(
    cfg: config.ExperimentConfig,
    directory: str | os.PathLike[str] | None = None,
    command: str | None = None,
) -> Result:
    """Trains a configuration to its end, showing progress and writing a run directory.

    Args:
      cfg: from `qmix_jax.load_config`.
      directory: a new or empty directory; by default `runs/<name>/<algo>/<time>`. With
        `resume: auto` in the configuration one that may hold this run already: it goes on from its
        last checkpoint, or begins if there is none.
      command: what to record as the command; by default a call of this function.
    Returns:
      A `Result`. After Ctrl-C, SIGTERM or SIGUSR1 it holds what was reached.
    Raises:
      ConfigError: a setting that cannot be honoured, before anything is compiled.
      NonFiniteError: a member's loss was not finite. It was frozen as it was before, the other
        members went on, and the run directory is complete.
      ProcessError: with `population.distributed`: another process failed or is lost.
      WriteError: the disk is full or gone; what was written is kept.
    """
    _check([cfg])
    with team.join([cfg]) as everyone:
        return _train(everyone, cfg, directory, command or _COMMAND)


def _train(
    everyone: team.Team,
    cfg: config.ExperimentConfig,
    directory: str | os.PathLike[str] | None,
    command: str,
) -> Result:
    (path,) = everyone.paths("directory", directories([Job(cfg, directory)]))
    cfg = resuming.settle(cfg, path)
    if resuming.ended(cfg, path):
        return _whole(_ended(path, shown=everyone.first))
    lines = _prepare([cfg], everyone)
    program = build(cfg)
    devices.local(cfg.seeds, cfg.population.devices)
    whole = training.Group([training.Job(cfg, path, command)], program, "")
    if everyone.count == 1:
        training.check(whole)
    own = {path: cfg.resume is not None} if everyone.first else {}
    kept = checkpoint.telling_what_is_kept(path, [path])
    with sinks.claimed(own), kept, _display(everyone.first) as (display, stop):
        for line in lines:
            display.note(line)
        trained = processes.train(everyone, 0, whole, Programs(), display, stop)
    (result,) = _results(whole, trained, Objective())
    if everyone.first:
        tables.run(result, trained.outcomes[0], trained.compile_s)
    return _whole(result)


def _whole(result: Result) -> Result:
    """Raises: NonFiniteError where a member diverged."""
    if result.failures:
        raise NonFiniteError("; ".join(result.failures.values()))
    return result


def _ended(path: pathlib.Path, shown: bool) -> Result:
    """What a run came to that has nothing left to train."""
    if shown:
        print(f"resume: {path} has ended; to train on, raise trainer.env_steps", flush=True)
    return load_run(path)


class _How(NamedTuple):
    """What `train_many` was asked for besides jobs."""

    halving: Halving | None
    objective: Objective
    programs: Programs | None


def train_many(
    jobs: Sequence[Job],
    directory: str | os.PathLike[str] | None = None,
    *,
    halving: Halving | None = None,
    objective: Objective = Objective(),  # noqa: B008
    programs: Programs | None = None,
) -> tuple[Result | None, ...]:
    """Trains configurations together: those that differ only in `hparams`, `seed` and `seeds`
    share one compiled program and train side by side, each as if it ran alone.

    Args:
      jobs: the runs; their directories must differ.
      directory: where to keep `index.json`: jobs, directories, groups, results; None for no index.
      halving: end the worse jobs early, by successive halving over all of them.
      objective: what `index.json` and the closing table compare jobs by.
      programs: compiled ones of an earlier call, to be used again; new ones are added. Without it
        each goes when its group is done.
    Returns:
      A `Result` per job; None for those that Ctrl-C kept from starting. A member that diverged is
      in `Result.failures`; it stops nobody else.
    Raises:
      ConfigError: a setting that cannot be honoured, before anything is compiled.
      ProcessError: with `population.distributed`: another process failed or is lost.
      WriteError: the disk is full or gone; what was written is kept.
    """
    configs = [job.config for job in jobs]
    _check(configs)
    if halving is not None and any(cfg.population.distributed for cfg in configs):
        raise config.ConfigError(
            "train: successive halving trains in one process; set population.distributed=false"
        )
    with team.join(configs) as everyone:
        how = _How(halving, objective, programs)
        return _train_many(everyone, jobs, directory, how)


def _train_many(
    everyone: team.Team,
    jobs: Sequence[Job],
    directory: str | os.PathLike[str] | None,
    how: _How,
) -> tuple[Result | None, ...]:
    paths = everyone.paths("directories", directories(jobs))
    jobs = [
        job._replace(config=resuming.settle(job.config, path))
        for job, path in zip(jobs, paths, strict=True)
    ]
    lines = _prepare([job.config for job in jobs], everyone)
    found = groups.split([job.config for job in jobs])
    wholes = _groups(jobs, paths, found)
    for one in wholes:
        devices.local(len(one.seeds), one.config.population.devices)
        one.program.plan.rungs(how.halving.rungs if how.halving else ())
        if how.halving is None and everyone.count == 1:
            training.check(one)
    labels = [job.label for job in jobs]
    kept = directory if everyone.first else None
    done: dict[int, Result] = {}
    claims = {path: job.config.resume is not None for path, job in zip(paths, jobs, strict=True)}
    safely = checkpoint.telling_what_is_kept(pathlib.Path(directory or paths[0]), paths)
    claimed = sinks.claimed(claims if everyone.first else {})
    asked = sweep_index.asked(kept, jobs, paths, how.halving, how.objective)
    with claimed, asked, safely, _display(everyone.first) as shown:
        display, stop = shown
        index = sweep_index.Index(kept, labels, paths, found, how.objective)
        for line in (*lines, *_group_lines(found)):
            display.note(line)
        for number, trained in _trained(everyone, wholes, how, display, stop, index):
            own = found[number].jobs
            done |= zip(own, _results(wholes[number], trained, how.objective), strict=True)
            index.finish(number, [done[i] for i in own], trained)
    ordered = tuple(done.get(i) for i in range(len(jobs)))
    if everyone.first:
        tables.sweep(labels, ordered, index.path, how.objective)
    return ordered


def _trained(
    everyone: team.Team,
    wholes: Sequence[training.Group],
    how: _How,
    display: progress.Progress,
    stop: Callable[[], bool],
    index: sweep_index.Index,
) -> Iterator[tuple[int, training.Trained]]:
    """What each group came to: trained from rung to rung together, or one after another until the
    user wants to stop.
    """
    with index.watching():
        if how.halving is None:
            yield from _in_turn(everyone, wholes, how.programs, display, stop, index)
            return
        if all(_had_ended(whole) for whole in wholes):
            yield from enumerate(map(_reached, wholes))
            return
        for number in range(len(wholes)):
            index.start(number)
        programs = how.programs or Programs()
        yield from enumerate(
            halvings.train(wholes, how.halving, how.objective, programs, display, stop)
        )


def _in_turn(
    everyone: team.Team,
    wholes: Sequence[training.Group],
    programs: Programs | None,
    display: progress.Progress,
    stop: Callable[[], bool],
    index: sweep_index.Index,
) -> Iterator[tuple[int, training.Trained]]:
    for number, whole in enumerate(wholes):
        if any(everyone.gather(f"{number}/stop", stop())):
            return
        if _had_ended(whole):
            display.note(f"{whole.heading}had ended")
            yield number, _reached(whole)
            continue
        index.start(number)
        # Without a later use, a program goes when its group is done: some 40 would fill the
        # process's table of memory maps.
        own = Programs() if programs is None else programs
        yield number, processes.train(everyone, number, whole, own, display, stop)


def _had_ended(whole: training.Group) -> bool:
    return all(resuming.ended(job.config, job.path) for job in whole.jobs)


def _reached(whole: training.Group) -> training.Trained:
    """A group that had ended before, from its run directories."""
    outcomes = [record.read_outcome(job.path) for job in whole.jobs]
    return training.Trained(outcomes, None, math.nan, math.nan, math.nan)


def plan_runs(
    configs: Sequence[config.ExperimentConfig], memory: int | None = None
) -> tuple[training.Footprint, ...]:
    """Prints and returns what training the configurations together would need.

    Args:
      configs: as `train_many` would get them.
      memory: bytes to plan for; by default `population.memory`, or what the devices have.
    Returns:
      One record per compiled program.
    Raises:
      ConfigError: a setting that cannot be honoured.
    """
    _check(configs)
    for line in _prepare(configs, team.Team()):
        print(line)
    found = groups.split(configs)
    for line in _group_lines(found):
        print(line)
    plans = []
    jobs = [Job(cfg) for cfg in configs]
    for whole in _groups(jobs, [pathlib.Path()] * len(jobs), found):
        plans.append(training.footprint(whole, memory))
        tables.footprint(whole, plans[-1])
    return tuple(plans)


def _check(configs: Sequence[config.ExperimentConfig]) -> None:
    for cfg in configs:
        if not isinstance(cfg, config.ExperimentConfig):
            raise config.ConfigError(
                f"train: got {type(cfg).__name__}, not a configuration; pass "
                "qmix_jax.load_config(...)"
            )
        rows.check(cfg)
    if not configs:
        raise config.ConfigError("train: no jobs; give at least one configuration")


def _prepare(configs: Sequence[config.ExperimentConfig], everyone: team.Team) -> list[str]:
    """Settles devices and the compile cache before the backend starts; lines for the user."""
    found = groups.split(configs)
    members = [len(everyone.share(sum(configs[i].seeds for i in one.jobs))) for one in found]
    wanted = [one.config.population.devices for one in found]
    notes = [
        devices.prepare(max(1, *members), None if None in wanted else max(filter(None, wanted)))
    ]
    if any(cfg.compile_cache for cfg in configs):
        notes.append(compile_cache.enable())
    return [note for note in notes if note]


def _groups(
    jobs: Sequence[Job], paths: Sequence[pathlib.Path], found: Sequence[groups.Group]
) -> list[training.Group]:
    """The groups, with their programs built."""
    made = []
    for number, one in enumerate(found, 1):
        heading = f"program {number} of {len(found)}: {progress.count(len(one.jobs), 'job')}, "
        own = [
            training.Job(jobs[i].config, paths[i], jobs[i].command or _COMMAND) for i in one.jobs
        ]
        made.append(training.Group(own, build(one.config), heading))
    return made


def claim(paths: Sequence[pathlib.Path], resume: bool) -> None:
    """Creates run directories. Raises: ConfigError for one that cannot be written or is used."""
    for path in paths:
        sinks.claim(path, resume)


def directories(jobs: Sequence[Job]) -> list[pathlib.Path]:
    """Where each job writes. Raises: ConfigError where two would share one."""
    if any(job.directory is None and job.config.resume for job in jobs):
        raise config.ConfigError(
            "resume: resume=auto goes on in a directory that is the same each time, and none is "
            "given; set hydra.run.dir, or `directory` in Python"
        )
    chosen = [pathlib.Path(job.directory or _default_directory(job.config)) for job in jobs]
    for i, path in enumerate(chosen):
        if path in chosen[:i]:
            raise config.ConfigError(
                f"run directory: jobs {chosen.index(path)} and {i} both write to {str(path)!r}; "
                "make hydra.sweep.subdir differ, for example by ${hydra.job.num}"
            )
    return chosen


@contextlib.contextmanager
def _display(shown: bool) -> Iterator[tuple[progress.Progress, Callable[[], bool]]]:
    """(progress display, whether the user wants to stop)."""
    with (
        progress.Progress(shown=shown) as display,
        interrupt.Interrupt(lambda: display.note(_STOPPING), display.abandon) as stop,
    ):
        yield display, lambda: stop.requested


def _results(
    whole: training.Group, trained: training.Trained, objective: Objective
) -> list[Result]:
    """A result per job."""
    return [
        results.make(job, outcome, whole.program, objective)
        for job, outcome in zip(whole.jobs, trained.outcomes, strict=True)
    ]


def _default_directory(cfg: config.ExperimentConfig) -> pathlib.Path:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return pathlib.Path("runs", cfg.name, cfg.algo.name, now)


def _group_lines(found: Sequence[groups.Group]) -> list[str]:
    """How many programs there are, and why more than one."""
    jobs = sum(len(one.jobs) for one in found)
    lines = [f"{progress.count(jobs, 'job')} in {progress.count(len(found), 'compiled program')}"]
    if len(found) > 1:
        keys = ", ".join(groups.separating_keys(found))
        traced = ", ".join(groups.TRACED)
        lines.append(f"one program each where static keys differ: {keys} (traced: {traced})")
    return lines
