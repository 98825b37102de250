"""Training jobs in this process: directories, devices, display and signals around the sessions."""

import contextlib
import datetime
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from qmix_jax import config, groups
from qmix_jax.console import progress
from qmix_jax.machine import compile_cache, devices, signals
from qmix_jax.program import build
from qmix_jax.runs import checkpoint, jobs, outcomes, record, results, scores, storage, sweep_index
from qmix_jax.training import compatibility, session, stopping
from qmix_jax.training import halving as halvings
from qmix_jax.training import programs as compiled

_STOPPING = "stopping after this call; Ctrl-C again ends at once"


class LaunchOptions(NamedTuple):
    """How jobs train together.

    Attributes:
      directory: where the index of the sweep is kept, if anywhere.
      halving, objective, programs: as for `qmix_jax.train_many`.
      alone: one run of its own, without the headings of a sweep.
      shown: whether people see progress.
      stopping: whether to end early, from whether a signal asks this process to.
    """

    directory: pathlib.Path | None = None
    halving: halvings.Halving | None = None
    objective: scores.Objective = scores.Objective()
    programs: compiled.Programs | None = None
    alone: bool = False
    shown: bool = True
    stopping: Callable[[bool], bool] = bool


class LaunchContext(NamedTuple):
    """What sessions need besides their files.

    Attributes:
      how: with the objective that the environments have, where none was given.
      found: positions of the jobs that share a program.
      groups: the same, with their programs built.
      display: shows progress.
      interrupted: whether to end early.
    """

    how: LaunchOptions
    found: tuple[groups.ConfigGroup, ...]
    groups: list[jobs.Group]
    display: progress.Progress
    interrupted: Callable[[], bool]


class LaunchResult(NamedTuple):
    """What jobs came to.

    Attributes:
      results: one per job; None for those that a signal kept from starting.
      objective: what they are compared by.
      shown: whether this process is the one that people see.
    """

    results: list[results.Result | None]
    objective: scores.Objective
    shown: bool = True


def settle(given: Sequence[jobs.Job]) -> list[jobs.Job]:
    """The jobs with their directories, and with what a run that is there already has settled.

    Raises:
      ConfigError: two would share a directory; the run there is another one, or was longer.
    """
    return [
        job._replace(config=compatibility.settle(job.config, path), directory=path)
        for job, path in zip(given, directories(given), strict=True)
    ]


def directories(given: Sequence[jobs.Job]) -> list[pathlib.Path]:
    """Where each job writes. Raises: ConfigError where two would share one."""
    if any(job.directory is None and job.config.resume for job in given):
        raise config.ConfigError(
            "resume: resume=auto resumes in a directory that is the same each time, and none is "
            "given; set hydra.run.dir, or `directory` in Python"
        )
    chosen = [pathlib.Path(job.directory or _default_directory(job.config)) for job in given]
    for i, path in enumerate(chosen):
        if path in chosen[:i]:
            raise config.ConfigError(
                f"run directory: jobs {chosen.index(path)} and {i} both write to {str(path)!r}; "
                "make hydra.sweep.subdir differ, for example by ${hydra.job.num}"
            )
    return chosen


def start(job: jobs.Job) -> session.Session:
    """A session of one settled job, which closes all that is opened here. Raises: ConfigError."""
    with contextlib.ExitStack() as stack:
        at = stack.enter_context(_launched([job], LaunchOptions(alone=True)))
        made = compiled.Programs()
        return session.Session(at.groups, made, at.display, at.interrupted, stack.pop_all())


def train(settled: Sequence[jobs.Job], how: LaunchOptions) -> LaunchResult:
    """Trains settled jobs in as many programs as they need. Raises: ConfigError."""
    done: dict[int, results.Result] = {}
    paths = [job.path for job in settled]
    asked = sweep_index.asked(how.directory, settled, paths, how.halving, how.objective)
    with _launched(settled, how) as at, asked, _index(settled, at) as index:
        for line in () if how.alone else group_lines(at.found):
            at.display.note(line)
        for number, own, seconds in _trained(at, index):
            index.finish(number, own, seconds)
            done |= zip(at.found[number].jobs, own, strict=True)
    return LaunchResult([done.get(i) for i in range(len(settled))], at.how.objective)


def _index(
    settled: Sequence[jobs.Job], at: LaunchContext
) -> contextlib.AbstractContextManager[sweep_index.SweepIndex]:
    labels, paths = [job.label for job in settled], [job.path for job in settled]
    how = at.how
    return sweep_index.SweepIndex(how.directory, labels, paths, at.found, how.objective).watching()


def _trained(
    at: LaunchContext, index: sweep_index.SweepIndex
) -> Iterator[tuple[int, list[results.Result], outcomes.WallTime]]:
    """Number, results and seconds of each group, until the user wants to stop: all groups together
    where they are halved, else in turn.
    """
    numbers = list(range(len(at.found)))
    for together in [numbers] if at.how.halving else [[number] for number in numbers]:
        if at.interrupted() and not at.how.halving:
            return
        found = _train_together(together, at, index)
        yield from ((n, own, took) for n, (own, took) in zip(together, found, strict=True))


def _train_together(
    numbers: Sequence[int], at: LaunchContext, index: sweep_index.SweepIndex
) -> list[tuple[list[results.Result], outcomes.WallTime]]:
    """Results and seconds of groups that train in one session, or ended before."""
    chosen, how = [at.groups[number] for number in numbers], at.how
    if all(compatibility.ended(job.config, job.path) for one in chosen for job in one.jobs):
        return [_reached(one, at) for one in chosen]
    for number in numbers:
        index.start(number)
    # Without a later use a program goes when its group is done: some 40 would fill the process's
    # table of memory maps.
    made = compiled.Programs() if how.programs is None else how.programs
    around, stop = contextlib.ExitStack(), at.interrupted
    with session.Session(
        chosen, made, at.display, stop, around, how.halving, how.objective
    ) as running:
        while running.step():
            pass
    return [(running.results(g), running.seconds(g)) for g in range(len(chosen))]


def _reached(
    group: jobs.Group, at: LaunchContext
) -> tuple[list[results.Result], outcomes.WallTime]:
    """The outcome of a group that had ended, from its run directories."""
    own = []
    for job in group.jobs:
        at.display.note(f"{group.heading}{had_ended(job)}")
        outcome = record.read_outcome(job.path)
        own.append(results.make(job, outcome, group.program, at.how.objective))
    return own, outcomes.WallTime(math.nan, math.nan, math.nan)


@contextlib.contextmanager
def _launched(settled: Sequence[jobs.Job], how: LaunchOptions) -> Iterator[LaunchContext]:
    """Around sessions: what cannot be honoured is refused, then run directories are claimed.

    Raises:
      ConfigError: a setting that cannot be honoured; directories still empty are removed.
      WriteError: the disk is full or gone.
    """
    configs, paths = [job.config for job in settled], [job.path for job in settled]
    lines = prepare(configs)
    found = groups.split(configs)
    built = build_groups(settled, found, how.alone)
    for one in built:
        devices.local(len(one.seeds), one.config.population.devices)
        for job in one.jobs:
            stopping.check(job.config.stop, one.program.spec.name, one.program.eval_metrics)
        one.program.plan.rungs(how.halving.rungs if how.halving else ())
        if how.halving is None:
            compiled.check(one)
    claims = {job.path: job.config.resume is not None for job in settled}
    with (
        storage.claimed(claims),
        checkpoint.telling_what_is_kept(how.directory or paths[0], paths),
        progress.Progress(enabled=how.shown) as display,
        signals.SignalListener(lambda: display.note(_STOPPING), display.abandon) as interrupt,
    ):
        for line in lines:
            display.note(line)
        objective = how.objective.on([one.program.spec for one in built])
        settings = how._replace(objective=objective)
        yield LaunchContext(
            settings, found, built, display, lambda: how.stopping(interrupt.requested)
        )


def had_ended(job: jobs.Job) -> str:
    """Says that a run has ended, how, and how to train on."""
    rule = (record.reached(job.path) or {}).get("stopped")
    how, more = (f", by {rule}", " or change stop.*") if rule else ("", "")
    return f"{job.path} has ended{how}; to train on, raise trainer.env_steps{more}"


def prepare(configs: Sequence[config.ExperimentConfig]) -> list[str]:
    """Settles devices and the compile cache before the backend starts; lines for the user."""
    found = groups.split(configs)
    members = [sum(configs[i].seeds for i in one.jobs) for one in found]
    wanted = [one.config.population.devices for one in found]
    notes = [
        devices.prepare(max(1, *members), None if None in wanted else max(filter(None, wanted)))
    ]
    if any(cfg.compile_cache for cfg in configs):
        notes.append(compile_cache.enable())
    return [note for note in notes if note]


def build_groups(
    settled: Sequence[jobs.Job], found: Sequence[groups.ConfigGroup], alone: bool = False
) -> list[jobs.Group]:
    """The groups, with their programs built; `alone`: without a heading."""
    made = []
    for number, one in enumerate(found, 1):
        heading = f"program {number} of {len(found)}: {progress.count(len(one.jobs), 'job')}, "
        own = [settled[i] for i in one.jobs]
        made.append(jobs.Group(own, build(one.config), "" if alone else heading))
    return made


def group_lines(found: Sequence[groups.ConfigGroup]) -> list[str]:
    """How many programs there are, and why more than one."""
    n_jobs = sum(len(one.jobs) for one in found)
    lines = [f"{progress.count(n_jobs, 'job')} in {progress.count(len(found), 'compiled program')}"]
    if len(found) > 1:
        keys = ", ".join(groups.separating_keys(found))
        traced = ", ".join(groups.TRACED)
        lines.append(f"one program each where static keys differ: {keys} (traced: {traced})")
    return lines


def _default_directory(cfg: config.ExperimentConfig) -> pathlib.Path:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return pathlib.Path("runs", cfg.name, cfg.algo.name, now)
