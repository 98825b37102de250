"""Python interface of training: configurations in, results out."""

import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qmix_jax import config, groups
from qmix_jax.console import tables
from qmix_jax.runs import checkpoint, metadata, results, rows, sweep_index
from qmix_jax.runs.jobs import Job
from qmix_jax.runs.outcomes import NonFiniteError
from qmix_jax.runs.results import Result, load_run
from qmix_jax.runs.scores import Objective
from qmix_jax.training import compatibility, distributed, launching, programs
from qmix_jax.training.halving import Halving
from qmix_jax.training.programs import Programs
from qmix_jax.training.session import Session


def start(
    cfg: config.ExperimentConfig,
    directory: str | os.PathLike[str] | None = None,
    command: str | None = None,
) -> Session:
    """Starts a run that you drive step by step; `qmix_jax.train` does the same in one call.

        cfg = qmix_jax.compose_config("experiment=two_step", "algo=qmix")
        with qmix_jax.start(cfg) as session:
            while session.step():
                if session.update > 1_000:
                    session.stop()
        result = session.result()

    Args:
      cfg, directory, command: as for `qmix_jax.train`.
    Returns:
      A `Session`: its programs are compiled, its members initialised and evaluated, or restored
      from a checkpoint.
    Raises:
      ConfigError: a setting is invalid, the run has already ended, or `population.distributed` is
        true; only `qmix_jax.train` and `qmix_jax.train_many` support it.
      WriteError: the run directory cannot be written, for example because the disk is full.
    """
    _check([cfg])
    if cfg.population.distributed:
        raise config.ConfigError(
            "start: a session runs in one process; set population.distributed=false, or use "
            "qmix_jax.train without callbacks"
        )
    (job,) = launching.prepare_jobs([Job(cfg, directory, command)])
    if compatibility.has_ended(job.config, job.path):
        raise config.ConfigError(
            f"start: {launching.ended_message(job)}, or read it with qmix_jax.load_run"
        )
    return launching.start_session(job)


def train(
    cfg: config.ExperimentConfig,
    directory: str | os.PathLike[str] | None = None,
    command: str | None = None,
    callbacks: Sequence[Callable[[Session], Any]] = (),
) -> Result:
    """Trains a configuration, displays progress and writes a run directory.

        cfg = qmix_jax.compose_config("experiment=two_step", "algo=qmix")
        result = qmix_jax.train(cfg)
        result.plot()

    Args:
      cfg: from `qmix_jax.compose_config` or `qmix_jax.load_config`.
      directory: a new or empty directory; by default `runs/<name>/<algo>/<time>`. If `resume` is
        `auto` in the configuration, training resumes from the last checkpoint in it, if any.
      command: the command to record in `manifest.json`; by default `qmix_jax.train`.
      callbacks: each is called with the `Session` after every step (a few seconds of training);
        `session.stop()` ends the run early.
    Returns:
      A `Result`; `interrupted` if Ctrl-C, SIGTERM, SIGUSR1 or a callback ended the run early.
    Raises:
      ConfigError: a setting is invalid, reported before compiling, or memory is too small.
      NonFiniteError: a member's loss or gradient was not finite. The member was frozen at its last
        finite state, the others finished, and all files were written.
      ProcessError: with `population.distributed`, another process failed or was lost.
      WriteError: the run directory cannot be written, for example because the disk is full; files
        written so far remain.
    """
    _check([cfg])
    job = Job(cfg, directory, command)
    if cfg.population.distributed:
        return _require_finite(_train_distributed(job, callbacks))
    (job,) = launching.prepare_jobs([job])
    if compatibility.has_ended(job.config, job.path):
        print(f"resume: {launching.ended_message(job)}", flush=True)
        return _require_finite(load_run(job.path))
    with launching.start_session(job) as session:
        while session.step():
            _call(callbacks, session)
    result = session.result()
    results.show(result)
    return _require_finite(result)


def _require_finite(result: Result) -> Result:
    """Raises: NonFiniteError if a member diverged."""
    if result.failures:
        raise NonFiniteError("; ".join(result.failures.values()))
    return result


def _call(callbacks: Sequence[Callable[[Session], Any]], session: Session) -> None:
    for callback in callbacks:
        callback(session)


def _train_distributed(job: Job, callbacks: Sequence[Callable[[Session], Any]]) -> Result:
    if callbacks:
        raise config.ConfigError(
            "train: callbacks need a single process; set population.distributed=false"
        )
    launched = distributed.train([job], launching.LaunchOptions(single=True))
    (result,) = launched.results
    if result is None:
        raise KeyboardInterrupt  # a signal arrived before every process had started
    if launched.is_main:
        results.show(result)
    return result


def train_many(
    jobs: Sequence[Job],
    directory: str | os.PathLike[str] | None = None,
    *,
    halving: Halving | None = None,
    objective: Objective = Objective(),  # noqa: B008
    programs: Programs | None = None,
) -> tuple[Result | None, ...]:
    """Trains several configurations and prints a table that compares them.

    Configurations that differ only in `hparams`, `seed` and `seeds` share one compiled program and
    train together; each result equals that of the job trained alone.

        names = ("vdn", "qmix")
        configs = [qmix_jax.compose_config("experiment=two_step", f"algo={a}") for a in names]
        results = qmix_jax.train_many([qmix_jax.Job(cfg) for cfg in configs])

    Args:
      jobs: configurations to train; their directories must differ.
      directory: where to write `index.json` (jobs, directories, groups, results) and `sweep.json`
        (to resume the sweep); None writes neither.
      halving: ends the worse jobs early, by successive halving over all jobs.
      objective: the score by which `index.json` and the table compare jobs.
      programs: compiled programs of earlier calls to reuse; new ones are added. By default each
        program is freed when its group ends.
    Returns:
      A `Result` per job; None for jobs that Ctrl-C prevented from starting. Members that diverged
      are listed in `Result.failures` and do not stop the others.
    Raises:
      ConfigError: a setting is invalid, reported before compiling, or memory is too small.
      ProcessError: with `population.distributed`, another process failed or was lost.
      WriteError: a directory cannot be written, for example because the disk is full; files
        written so far remain.
    """
    configs = [job.config for job in jobs]
    _check(configs)
    in_processes = any(cfg.population.distributed for cfg in configs)
    if halving is not None and in_processes:
        raise config.ConfigError(
            "train: successive halving needs a single process; set population.distributed=false"
        )
    root = None if directory is None else pathlib.Path(directory)
    options = launching.LaunchOptions(root, halving, objective, programs)
    if in_processes:
        launched = distributed.train(jobs, options)
    else:
        launched = launching.train(launching.prepare_jobs(jobs), options)
    if launched.is_main:
        tables.sweep(
            [job.label for job in jobs],
            launched.results,
            root and root / sweep_index.INDEX_FILE,
            launched.objective.caption,
            launched.objective.maximise,
        )
    return tuple(launched.results)


def resume(directory: str | os.PathLike[str], changes: Mapping[str, Any] | None = None) -> Result:
    """Resumes a run from its last checkpoint; rows after the checkpoint are dropped.

        result = qmix_jax.resume("runs/smax_3m/qmix/first", {"trainer.env_steps": 1_000_000})

    On a CPU with `population.batching=map` and equal versions, results equal those of an
    uninterrupted run bit for bit; elsewhere they agree up to rounding.

    Args:
      directory: a run directory.
      changes: dotted key -> value. Only total steps, evaluation, stop rules, loggers, checkpoints
        and settings that do not change results may change.
    Returns:
      A `Result`, as from `qmix_jax.train`.
    Raises:
      ConfigError: as for `qmix_jax.train`; also if another setting changes, or the checkpoint is
        missing, damaged, of another run or of an older version.
      NonFiniteError, ProcessError, WriteError: as for `qmix_jax.train`.
    """
    path = pathlib.Path(directory)
    cfg = metadata.read_run_config(path)
    parts = [path, *path.glob(f"{rows.PART_PREFIX}*")]
    if not any(checkpoint.complete_steps(part / checkpoint.FOLDER) for part in parts):
        raise config.ConfigError(
            f"resume: no checkpoint in {str(path / checkpoint.FOLDER)!r}; if the run was part of a "
            "sweep, give the directory of the sweep; resume=auto with hydra.run.dir starts again"
        )
    return train(_resumed(cfg, changes), path, metadata.read_manifest(path).get("command"))


def resume_many(
    directory: str | os.PathLike[str], changes: Mapping[str, Any] | None = None
) -> tuple[Result | None, ...]:
    """Resumes a sweep of `train_many` or `hydra/launcher=fused` from its checkpoints.

        results = qmix_jax.resume_many("multirun/first", {"trainer.env_steps": 1_000_000})

    Jobs that have ended are loaded; the others resume, or start if they have no checkpoint.

    Args:
      directory: the directory of the sweep, with its `sweep.json`.
      changes: as for `qmix_jax.resume`, applied to every job.
    Returns:
      A `Result` per job, as from `qmix_jax.train_many`.
    Raises:
      ConfigError: as for `qmix_jax.resume`; also if there is no `sweep.json`.
      ProcessError, WriteError: as for `qmix_jax.train_many`.
    """
    path = pathlib.Path(directory)
    try:
        sweep = json.loads((path / sweep_index.SWEEP_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise config.ConfigError(
            f"resume: cannot read {str(path / sweep_index.SWEEP_FILE)!r} ({error}); give the "
            "directory of a fused sweep, or repeat its command with resume=auto and its "
            "hydra.sweep.dir"
        ) from error
    jobs = [
        Job(
            config=_resumed(config.load(job["config"]), changes),
            directory=path / job["directory"],
            command=job["command"],
            label=job["overrides"],
        )
        for job in sweep["jobs"]
    ]
    halving = sweep["halving"] and Halving(tuple(sweep["halving"][0]), sweep["halving"][1])
    return train_many(jobs, path, halving=halving, objective=Objective(*sweep["objective"]))


def is_sweep(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory is that of a sweep, which `resume_many` resumes."""
    return (pathlib.Path(directory) / sweep_index.SWEEP_FILE).is_file()


def _resumed(
    cfg: config.ExperimentConfig, changes: Mapping[str, Any] | None
) -> config.ExperimentConfig:
    return config.with_values(cfg, {**(changes or {}), "resume": "auto"})


def plan_runs(
    configs: Sequence[config.ExperimentConfig], memory: int | None = None
) -> tuple[programs.Footprint, ...]:
    """Estimates and prints the memory that training the configurations together needs.

        (footprint,) = qmix_jax.plan_runs([qmix_jax.compose_config("experiment=smax_3m")])
        footprint.together  # number of members that fit at a time

    Args:
      configs: as for `train_many`.
      memory: available bytes; by default `population.memory`, or the memory of the devices.
    Returns:
      A `Footprint` per compiled program.
    Raises:
      ConfigError: a setting is invalid.
    """
    _check(configs)
    split = groups.split(configs)
    for line in (*launching.prepare_devices(configs), *launching.describe_groups(split)):
        print(line)
    footprints = []
    for group in launching.build_groups([Job(cfg) for cfg in configs], split):
        footprints.append(programs.footprint(group, memory))
        title = f"{group.heading}{group.config.name}"
        tables.footprint(title, len(group.seeds), group.program.plan, footprints[-1])
    return tuple(footprints)


def _check(configs: Sequence[config.ExperimentConfig]) -> None:
    if not configs:
        raise config.ConfigError("train: no jobs; give at least one configuration")
    for cfg in configs:
        if not isinstance(cfg, config.ExperimentConfig):
            raise config.ConfigError(
                f"train: got {type(cfg).__name__}, not an ExperimentConfig; pass "
                "qmix_jax.load_config(...)"
            )
        rows.check(cfg)
