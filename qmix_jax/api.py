"""The Python face: train configurations, get arrays and paths back."""

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

__all__ = [
    "Halving", "Job", "NonFiniteError", "Objective", "Programs", "Result", "Session", "load_run",
    "plan_runs", "resume", "resume_many", "start", "train", "train_many",
]  # fmt: skip


def start(
    cfg: config.ExperimentConfig,
    directory: str | os.PathLike[str] | None = None,
    command: str | None = None,
) -> Session:
    """Starts a run to be driven step by step, as `train` drives it.

        with qmix_jax.start(cfg) as session:
            while session.step():
                if session.update > 1_000:
                    session.stop()
        result = session.result()

    Args:
      cfg, directory, command: as for `train`.
    Returns:
      A `Session`, compiled, with members that are made and evaluated, or restored.
    Raises:
      ConfigError: a setting that cannot be honoured; a run that has ended; a run of several
        processes (`population.distributed`), which only `train` runs.
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
    """Trains a configuration to its end, showing progress and writing a run directory.

    Args:
      cfg: from `qmix_jax.load_config`.
      directory: a new or empty directory; by default `runs/<name>/<algo>/<time>`. With
        `resume: auto` in the configuration one that may hold this run already: it is resumed from
        its last checkpoint, or begins if there is none.
      command: what to record as the command; by default a call of this function.
      callbacks: each is called with the `Session` after every step, of some seconds;
        `session.stop()` ends the run early.
    Returns:
      A `Result`. After Ctrl-C, SIGTERM or SIGUSR1 it holds what was reached.
    Raises:
      ConfigError: a setting that cannot be honoured, before anything is compiled.
      NonFiniteError: a member's loss was not finite. It was frozen as it was before, the other
        members trained on, and the run directory is complete.
      ProcessError: with `population.distributed`: another process failed or is lost.
      WriteError: the disk is full or gone; what was written is kept.
    """
    _check([cfg])
    if cfg.population.distributed:
        result = _train_distributed(Job(cfg, directory, command), callbacks)
        return _checked(result)
    (job,) = launching.prepare_jobs([Job(cfg, directory, command)])
    if compatibility.has_ended(job.config, job.path):
        print(f"resume: {launching.ended_message(job)}", flush=True)
        return _checked(load_run(job.path))
    with launching.start_session(job) as session:
        while session.step():
            _call(callbacks, session)
    result = session.result()
    results.show(result)
    return _checked(result)


def _train_distributed(job: Job, callbacks: Sequence[Callable[[Session], Any]]) -> Result:
    if callbacks:
        raise config.ConfigError(
            "train: callbacks are called in one process; set population.distributed=false"
        )
    done = distributed.train([job], launching.LaunchOptions(single=True))
    (result,) = done.results
    if result is None:
        raise KeyboardInterrupt  # a signal came before every process had begun
    if done.is_main:
        results.show(result)
    return result


def _call(callbacks: Sequence[Callable[[Session], Any]], session: Session) -> None:
    for callback in callbacks:
        callback(session)


def _checked(result: Result) -> Result:
    """Raises: NonFiniteError where a member diverged."""
    if result.failures:
        raise NonFiniteError("; ".join(result.failures.values()))
    return result


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
    root = None if directory is None else pathlib.Path(directory)
    done = distributed.train(jobs, launching.LaunchOptions(root, halving, objective, programs))
    if done.is_main:
        labels, index = [job.label for job in jobs], root and root / sweep_index.INDEX_FILE
        tables.sweep(labels, done.results, index, done.objective.caption, done.objective.maximise)
    return tuple(done.results)


def resume(directory: str | os.PathLike[str], changes: Mapping[str, Any] | None = None) -> Result:
    """Resumes a run from its last checkpoint, to the numbers it would have had uncut.

    Bit for bit on a CPU where members take turns (`population.batching=map`), with the same
    versions; to rounding elsewhere. Rows later than the checkpoint are dropped.

    Args:
      directory: of the run.
      changes: dotted keys -> values, where only total steps, evaluation, stop rules, loggers,
        checkpoints and what does not change results may differ: `{"trainer.env_steps": 1_000_000}`.
    Returns, raises: as `qmix_jax.train`; ConfigError also where there is no checkpoint, or it is
      damaged, of another run or of an older version.
    """
    path = pathlib.Path(directory)
    cfg = metadata.read_run_config(path)
    parts = [path, *path.glob(f"{rows.PART_PREFIX}*")]
    if not any(checkpoint.complete_steps(part / checkpoint.FOLDER) for part in parts):
        raise config.ConfigError(
            f"resume: no checkpoint in {str(path / checkpoint.FOLDER)!r}; give the directory of "
            "the whole sweep if the run trained in one; resume=auto with hydra.run.dir starts again"
        )
    return train(_changed(cfg, changes), path, metadata.command(path))


def resume_many(
    directory: str | os.PathLike[str], changes: Mapping[str, Any] | None = None
) -> tuple[Result | None, ...]:
    """Resumes a sweep of `train_many` or `hydra/launcher=fused`, from its checkpoints.

    Jobs that had ended are read back, others are resumed or begin.

    Args:
      directory: of the sweep, with its `sweep.json`.
      changes: as for `resume`, for every job.
    Returns, raises: as `qmix_jax.train_many`.
    """
    path = pathlib.Path(directory)
    try:
        known = json.loads((path / sweep_index.SWEEP_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise config.ConfigError(
            f"resume: cannot read {str(path / sweep_index.SWEEP_FILE)!r} ({error}); give the "
            "directory of a fused sweep, or repeat its command with resume=auto and its "
            "hydra.sweep.dir"
        ) from error
    jobs = [
        Job(
            config=_changed(config.load(one["config"]), changes),
            directory=path / one["directory"],
            command=one["command"],
            label=one["overrides"],
        )
        for one in known["jobs"]
    ]
    halving = known["halving"] and Halving(tuple(known["halving"][0]), known["halving"][1])
    return train_many(jobs, path, halving=halving, objective=Objective(*known["objective"]))


def is_sweep(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory is a sweep's."""
    return (pathlib.Path(directory) / sweep_index.SWEEP_FILE).is_file()


def _changed(
    cfg: config.ExperimentConfig, changes: Mapping[str, Any] | None
) -> config.ExperimentConfig:
    return config.with_values(cfg, {**(changes or {}), "resume": "auto"})


def plan_runs(
    configs: Sequence[config.ExperimentConfig], memory: int | None = None
) -> tuple[programs.Footprint, ...]:
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
    found = groups.split(configs)
    for line in (*launching.prepare_devices(configs), *launching.describe_groups(found)):
        print(line)
    plans = []
    for group in launching.build_groups([Job(cfg) for cfg in configs], found):
        plans.append(programs.footprint(group, memory))
        title = f"{group.heading}{group.config.name}"
        tables.footprint(title, len(group.seeds), group.program.plan, plans[-1])
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
