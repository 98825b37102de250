"""Trains jobs in this process: prepares groups, directories, devices, display and signals, then
runs the sessions.
"""

import contextlib
import datetime
import itertools
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from qmix_jax import config, groups
from qmix_jax.console import progress
from qmix_jax.machine import compile_cache, devices, signals
from qmix_jax.program import build
from qmix_jax.runs import checkpoint, outcomes, record, results, scores, storage, sweep_index
from qmix_jax.runs.jobs import Group, Job
from qmix_jax.training import compatibility, session, stopping
from qmix_jax.training import halving as successive_halving
from qmix_jax.training import programs as compiled_programs


class LaunchOptions(NamedTuple):
    """Options of a launch.

    Attributes:
      directory: of the sweep, for its index; None for no index.
      halving, objective, programs: as for `qmix_jax.train_many`.
      single: one run, without the headings of a sweep.
      show_progress: whether to display progress.
      should_stop: whether to end early, given whether this process received a signal.
    """

    directory: pathlib.Path | None = None
    halving: successive_halving.Halving | None = None
    objective: scores.Objective = scores.Objective()
    programs: compiled_programs.Programs | None = None
    single: bool = False
    show_progress: bool = True
    should_stop: Callable[[bool], bool] = bool


class LaunchContext(NamedTuple):
    """Shared by the sessions of a launch.

    Attributes:
      options: with the objective resolved for the environments.
      config_groups: indices of the jobs that share a program.
      groups: the same groups, with their programs built.
      display: of progress and notes.
      should_stop: whether to end early.
    """

    options: LaunchOptions
    config_groups: tuple[groups.ConfigGroup, ...]
    groups: list[Group]
    display: progress.Progress
    should_stop: Callable[[], bool]


class LaunchResult(NamedTuple):
    """Results of a launch.

    Attributes:
      results: one per job; None for jobs that a signal prevented from starting.
      objective: by which they are compared.
      is_main: whether this is process 0, which prints them.
    """

    results: list[results.Result | None]
    objective: scores.Objective
    is_main: bool = True


def train(jobs: Sequence[Job], options: LaunchOptions) -> LaunchResult:
    """Trains prepared jobs in as few programs as possible, and keeps the index of the sweep.

    Groups train in turn, until the user wants to stop; with successive halving, all in one session.

    Raises:
      ConfigError: a setting cannot be honoured.
      WriteError: a directory cannot be written.
    """
    finished: dict[int, results.Result] = {}
    with (
        _launch(jobs, options) as context,
        sweep_index.record_jobs(options.directory, jobs, options.halving, options.objective),
        sweep_index.SweepIndex(
            options.directory, jobs, context.config_groups, context.options.objective
        ) as index,
    ):
        for line in () if options.single else describe_groups(context.config_groups):
            context.display.note(line)
        all_groups = range(len(context.groups))
        sessions = [all_groups] if options.halving else [[i] for i in all_groups]
        trained = (_train_session(indices, context, index) for indices in sessions)
        for i, group_results, seconds in itertools.chain.from_iterable(trained):
            index.finish(i, group_results, seconds)
            finished |= zip(context.config_groups[i].jobs, group_results, strict=True)
    ordered = [finished.get(i) for i in range(len(jobs))]
    return LaunchResult(ordered, context.options.objective)


def start_session(job: Job) -> session.Session:
    """Opens the session of a prepared job; it also closes the launch. Raises: ConfigError."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(_launch([job], LaunchOptions(single=True)))
        return session.Session(
            context.groups,
            compiled_programs.Programs(),
            context.display,
            context.should_stop,
            stack.pop_all(),
        )


def prepare_jobs(jobs: Sequence[Job]) -> list[Job]:
    """Sets the directory of each job, and adapts its configuration to an existing run in it.

    Raises: ConfigError if two jobs share a directory, or an existing run cannot be resumed.
    """
    return [
        job._replace(config=compatibility.resumed_config(job.config, path), directory=path)
        for job, path in zip(jobs, job_directories(jobs), strict=True)
    ]


def job_directories(jobs: Sequence[Job]) -> list[pathlib.Path]:
    """Returns the run directory of each job. Raises: ConfigError if two jobs share one."""
    if any(job.directory is None and job.config.resume for job in jobs):
        raise config.ConfigError(
            "resume: resume=auto needs a fixed directory, but none is given; "
            "set hydra.run.dir, or `directory` in Python"
        )
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    paths = [
        pathlib.Path(
            job.directory or pathlib.Path("runs", job.config.name, job.config.algo.name, now)
        )
        for job in jobs
    ]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise config.ConfigError(
                f"run directory: jobs {paths.index(path)} and {i} both write to {str(path)!r}; "
                "make hydra.sweep.subdir differ, for example by ${hydra.job.num}"
            )
    return paths


def prepare_devices(configs: Sequence[config.ExperimentConfig]) -> list[str]:
    """Sets up devices and the compile cache before JAX starts; returns lines for the user."""
    config_groups = groups.split(configs)
    n_members = [sum(configs[i].seeds for i in group.jobs) for group in config_groups]
    n_devices = [group.config.population.devices for group in config_groups]
    notes = [
        devices.prepare(
            max(1, *n_members), None if None in n_devices else max(filter(None, n_devices))
        )
    ]
    if any(cfg.compile_cache for cfg in configs):
        notes.append(compile_cache.enable())
    return [note for note in notes if note]


def build_groups(
    jobs: Sequence[Job], config_groups: Sequence[groups.ConfigGroup], single: bool = False
) -> list[Group]:
    """Builds the programs of the groups; `single`: without a heading."""
    built = []
    for number, group in enumerate(config_groups, 1):
        n_jobs = progress.count(len(group.jobs), "job")
        heading = "" if single else f"program {number} of {len(config_groups)}: {n_jobs}, "
        built.append(Group([jobs[i] for i in group.jobs], build(group.config), heading))
    return built


def describe_groups(config_groups: Sequence[groups.ConfigGroup]) -> list[str]:
    """Returns lines for the user: the number of programs, and why there is more than one."""
    n_jobs = progress.count(sum(len(group.jobs) for group in config_groups), "job")
    lines = [f"{n_jobs} in {progress.count(len(config_groups), 'compiled program')}"]
    if len(config_groups) > 1:
        keys = ", ".join(groups.separating_keys(config_groups))
        traced = ", ".join(groups.TRACED)
        lines.append(f"separate programs where static keys differ: {keys} (traced: {traced})")
    return lines


def ended_message(job: Job) -> str:
    """Returns a line for the user: the run has ended, by which rule, and how to continue it."""
    rule = (record.read_summary(job.path) or {}).get("stopped")
    by, more = (f", by {rule}", " or change stop.*") if rule else ("", "")
    return f"{job.path} has ended{by}; to continue, raise trainer.env_steps{more}"


@contextlib.contextmanager
def _launch(jobs: Sequence[Job], options: LaunchOptions) -> Iterator[LaunchContext]:
    """Checks prepared jobs, claims their run directories, starts the display and signal listener.

    Raises:
      ConfigError: a setting cannot be honoured; directories that are still empty are removed.
      WriteError: a directory cannot be written.
    """
    configs, paths = [job.config for job in jobs], [job.path for job in jobs]
    notes = prepare_devices(configs)
    config_groups = groups.split(configs)
    built = build_groups(jobs, config_groups, options.single)
    for group in built:
        devices.local(len(group.seeds), group.config.population.devices)
        for job in group.jobs:
            stopping.check(job.config.stop, group.program.spec.name, group.program.eval_metrics)
        group.program.plan.rungs(options.halving.rungs if options.halving else ())
        if options.halving is None:
            compiled_programs.check(group)
    with (
        storage.claimed({job.path: job.config.resume is not None for job in jobs}),
        checkpoint.explain_write_errors(options.directory or paths[0], paths),
        progress.Progress(enabled=options.show_progress) as display,
        signals.SignalListener(
            lambda: display.note("stopping after this call; Ctrl-C again ends at once"),
            display.show_cursor,
        ) as listener,
    ):
        for note in notes:
            display.note(note)
        objective = options.objective.resolve([group.program.spec for group in built])
        yield LaunchContext(
            options._replace(objective=objective),
            config_groups,
            built,
            display,
            lambda: options.should_stop(listener.requested),
        )


def _train_session(
    indices: Sequence[int], context: LaunchContext, index: sweep_index.SweepIndex
) -> Iterator[tuple[int, list[results.Result], outcomes.WallTime]]:
    """Trains groups in one session, or reads them back if all have ended.

    Yields (index, results, seconds) of each group; nothing if the user wants to stop.
    """
    session_groups, options = [context.groups[i] for i in indices], context.options
    if options.halving is None and context.should_stop():
        return
    jobs = [job for group in session_groups for job in group.jobs]
    if all(compatibility.has_ended(job.config, job.path) for job in jobs):
        for i, group in zip(indices, session_groups, strict=True):
            yield i, _read_results(group, context), outcomes.WallTime(*[math.nan] * 3)
        return
    for i in indices:
        index.start(i)
    with session.Session(
        session_groups,
        # Unless the caller reuses them, programs are freed with their group: about 40 of them
        # would fill the process's table of memory maps.
        options.programs or compiled_programs.Programs(),
        context.display,
        context.should_stop,
        contextlib.ExitStack(),
        options.halving,
        options.objective,
    ) as running:
        while running.step():
            pass
    for g, i in enumerate(indices):
        yield i, running.results(g), running.seconds(g)


def _read_results(group: Group, context: LaunchContext) -> list[results.Result]:
    """Reads the results of a group whose runs have ended."""
    for job in group.jobs:
        context.display.note(f"{group.heading}{ended_message(job)}")
    return [
        results.make(job, record.read_outcome(job.path), group.program, context.options.objective)
        for job in group.jobs
    ]
