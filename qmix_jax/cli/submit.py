"""Launchers for more than one process: each group of a sweep becomes a job of submitit, on SLURM
(`hydra/launcher=fused_slurm`) or on this machine (`hydra/launcher=fused_local`).
"""

import contextlib
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import omegaconf
from hydra.core import utils

from qmix_jax import api, config, groups, program
from qmix_jax.cli import group_task, job_queue, launcher
from qmix_jax.console import progress, tables
from qmix_jax.machine import signals
from qmix_jax.runs import scores, storage, sweep_index
from qmix_jax.training import launching

FOLDER = "submitit"
"""Folder of a sweep with the jobs' logs and pickles, and an `index.json` per group."""

_SHARED = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb")
"""What submitit calls by one name on every cluster; other names begin with the cluster's."""


class LocalOptions(config.Model):
    """Keys of `configs/hydra/launcher/fused_local.yaml`."""

    max_programs: config.PositiveInt | None
    array_parallelism: config.PositiveInt
    timeout_min: config.PositiveInt
    max_num_timeout: config.Count
    gpus_per_node: config.Count


class SlurmOptions(config.Model):
    """Keys of `configs/hydra/launcher/fused_slurm.yaml`."""

    max_programs: config.PositiveInt | None
    array_parallelism: config.PositiveInt
    timeout_min: config.PositiveInt
    max_num_timeout: config.Count
    signal_delay_s: config.PositiveInt
    cpus_per_task: config.PositiveInt | None
    gpus_per_node: config.Count | None
    mem_gb: config.PositiveFloat | None
    partition: str | None
    qos: str | None
    constraint: str | None
    account: str | None
    setup: list[str]
    additional_parameters: dict[str, Any]


def launch(
    context: Any,
    root: omegaconf.DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    cluster: Literal["slurm", "local"],
    options: Mapping[str, Any],
) -> list[utils.JobReturn]:
    """Trains each group of jobs that share a program in a job of its own, and waits for all.

    Args:
      context, root: Hydra's.
      job_overrides: of each job.
      first: number of the first job.
      cluster: where to.
      options: those of the launcher's YAML file.
    Returns:
      One `JobReturn` per job, its value the job's objective, NaN where its group failed (which
      `launcher.failures` tells).
    Raises:
      ConfigError: no submitit, no SLURM, an option or a job that cannot be honoured, a refused
        submission.
      SystemExit: 130 after Ctrl-C.
    """
    group_task.engine()
    chosen = _options(cluster, options)
    composed, jobs = launcher.prepare(context, root, job_overrides, first, chosen.max_programs)
    found = groups.split([job.config for job in jobs])
    _build(found)
    sweep = pathlib.Path(root.hydra.sweep.dir).absolute()
    executor = _executor(cluster, chosen, sweep / FOLDER)
    paths = _claim(jobs)
    index = sweep_index.SweepIndex(sweep, jobs, found)
    tasks = [
        group_task.GroupTask(
            [jobs[i]._replace(directory=paths[i].absolute()) for i in one.jobs],
            sweep / FOLDER / f"group-{number}",
        )
        for number, one in enumerate(found)
    ]
    print(f"{progress.count(len(jobs), 'job')} in {progress.count(len(found), 'compiled program')}")
    names = [f"group {n} ({_numbers(one.jobs, first)})" for n, one in enumerate(found)]
    at_once = len(found) if cluster == "slurm" else chosen.array_parallelism
    queue = job_queue.JobQueue(executor, tasks, names, index, at_once)
    _wait(queue, cluster, paths)
    runs = {
        i: run
        for number, outcome in queue.outcomes.items()
        for i, run in zip(found[number].jobs, outcome.runs, strict=True)
    }
    _note_failures(queue, runs, first)
    ordered = [runs.get(i) for i in range(len(jobs))]
    labels, caption = [job.label for job in jobs], scores.Objective().caption
    tables.sweep(labels, ordered, index.path, caption, absent="failed")
    objectives = [math.nan if run is None else run.objective for run in ordered]
    return launcher.job_returns(job_overrides, composed, jobs, objectives)


def _options(
    cluster: Literal["slurm", "local"], options: Mapping[str, Any]
) -> SlurmOptions | LocalOptions:
    raw = omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.create(dict(options)), resolve=True)
    model = SlurmOptions if cluster == "slurm" else LocalOptions
    return config.validate(model, raw, ("hydra", "launcher"))


def _build(found: Sequence[groups.ConfigGroup]) -> None:
    """Finds what cannot be honoured before anything is submitted; accelerators are the jobs'."""
    jax.config.update("jax_platforms", "cpu")
    for one in found:
        program.build(one.config)


def _executor(
    cluster: Literal["slurm", "local"],
    options: SlurmOptions | LocalOptions,
    folder: pathlib.Path,
) -> Any:
    """A `submitit.AutoExecutor` with the options."""
    limits = {f"{cluster}_max_num_timeout": options.max_num_timeout}
    try:
        executor = group_task.engine().AutoExecutor(folder, cluster=cluster, **limits)
    except RuntimeError as error:
        raise config.ConfigError(
            "launcher: hydra/launcher=fused_slurm finds no SLURM here (no `srun` on PATH); start "
            "from a login node, or use hydra/launcher=fused_local"
        ) from error
    executor.update_parameters(name="qmix_jax", **_parameters(cluster, options))
    return executor


def _parameters(
    cluster: Literal["slurm", "local"], options: SlurmOptions | LocalOptions
) -> dict[str, Any]:
    """Options under the names that `AutoExecutor.update_parameters` knows; None is its default."""
    values = options.model_dump(exclude={"max_programs", "max_num_timeout"})
    if isinstance(options, LocalOptions):
        del values["array_parallelism"]
    elif options.cpus_per_task is not None:
        # since SLURM 22.05 `srun` does not inherit it from `sbatch`
        values["srun_args"] = [f"--cpus-per-task={options.cpus_per_task}"]
    return {
        name if name in _SHARED else f"{cluster}_{name}": value for name, value in values.items()
    }


def _claim(jobs: Sequence[api.Job]) -> list[pathlib.Path]:
    """Run directories that hold nothing, unless the sweep goes on: whatever a job finds there later
    is its own.
    """
    paths = launching.job_directories(jobs)
    resume = all(job.config.resume is not None for job in jobs)
    for path in paths:
        storage.claim(path, resume)
    for path in paths:
        if any(path.iterdir()) and not resume:
            _withdraw(paths)
            raise config.ConfigError(
                f"run directory: {str(path)!r} is not empty; go on with it by resume=auto, or "
                "choose another hydra.sweep.dir or hydra.sweep.subdir"
            )
    return paths


def _withdraw(paths: Sequence[pathlib.Path]) -> None:
    """Removes run directories in which nothing has been written."""
    for path in paths:
        with contextlib.suppress(OSError):  # not empty
            path.rmdir()


def _wait(
    queue: job_queue.JobQueue, cluster: Literal["slurm", "local"], paths: Sequence[pathlib.Path]
) -> None:
    try:
        queue.wait()
    except config.ConfigError:
        _withdraw(paths)
        raise
    except KeyboardInterrupt:
        if cluster == "slurm":
            queue.leave()
        else:
            queue.cancel()
        raise SystemExit(signals.exit_code()) from None


def _note_failures(
    queue: job_queue.JobQueue, runs: Mapping[int, group_task.JobResult], first: int
) -> None:
    launcher.failures.extend(queue.failures[number] for number in sorted(queue.failures))
    for i, run in sorted(runs.items()):
        texts = [*run.failures.values(), *(["interrupted"] if run.interrupted else [])]
        launcher.failures.extend(f"job {first + i}: {text}" for text in texts)


def _numbers(jobs: Sequence[int], first: int, most: int = 6) -> str:
    """`job 3`, `jobs 0, 2`, `jobs 0, 1, 2, 3, 4, ..., 99`."""
    shown = [str(first + i) for i in jobs]
    if len(shown) > most:
        shown[most - 1 : -1] = ["..."]
    return f"{'job' if len(jobs) == 1 else 'jobs'} {', '.join(shown)}"
