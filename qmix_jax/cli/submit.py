"""Launchers that run each group of a sweep as a job of submitit: on SLURM
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
"""Folder in a sweep for the jobs' logs and pickles, and an `index.json` per group."""

_SHARED = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb")
"""Parameters with the same name on every cluster; submitit prefixes others with the cluster's."""


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
    """Submits each group of jobs that share a program, and waits for all.

    Args:
      context, root: from Hydra.
      job_overrides: overrides of each job.
      first: number of the first job.
      cluster: where to submit.
      options: the keys of the launcher's YAML file.
    Returns:
      One `JobReturn` per job; its value is the job's objective, NaN if its group failed (see
      `launcher.failures`).
    Raises:
      ConfigError: no submitit, no SLURM, an invalid option or job, a refused submission.
      SystemExit: 130 after Ctrl-C.
    """
    group_task.import_submitit()
    settings = _settings(cluster, options)
    composed, jobs = launcher.prepare(context, root, job_overrides, first, settings.max_programs)
    split = groups.split([job.config for job in jobs])
    jax.config.update("jax_platforms", "cpu")  # accelerators are for the jobs
    for group in split:
        program.build(group.config)  # raises before submission
    sweep = pathlib.Path(root.hydra.sweep.dir).absolute()
    executor = _executor(cluster, settings, sweep / FOLDER)
    paths = _claim(jobs)
    index = sweep_index.SweepIndex(sweep, jobs, split)
    tasks = [
        group_task.GroupTask(
            [jobs[i]._replace(directory=paths[i].absolute()) for i in group.jobs],
            sweep / FOLDER / f"group-{number}",
        )
        for number, group in enumerate(split)
    ]
    print(f"{progress.count(len(jobs), 'job')} in {progress.count(len(split), 'compiled program')}")
    names = [f"group {n} ({_job_list(group.jobs, first)})" for n, group in enumerate(split)]
    max_submitted = len(split) if cluster == "slurm" else settings.array_parallelism
    queue = job_queue.JobQueue(executor, tasks, names, index, max_submitted)
    _wait(queue, cluster, paths)
    results = {
        i: result
        for number, outcome in queue.outcomes.items()
        for i, result in zip(split[number].jobs, outcome.runs, strict=True)
    }
    launcher.failures.extend(queue.failures[number] for number in sorted(queue.failures))
    for i, result in sorted(results.items()):
        texts = [*result.failures.values(), *(["interrupted"] if result.interrupted else [])]
        launcher.failures.extend(f"job {first + i}: {text}" for text in texts)
    ordered = [results.get(i) for i in range(len(jobs))]
    labels, caption = [job.label for job in jobs], scores.Objective().caption
    tables.sweep(labels, ordered, index.path, caption, absent="failed")
    objectives = [math.nan if result is None else result.objective for result in ordered]
    return launcher.job_returns(job_overrides, composed, jobs, objectives)


def _settings(
    cluster: Literal["slurm", "local"], options: Mapping[str, Any]
) -> SlurmOptions | LocalOptions:
    raw = omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.create(dict(options)), resolve=True)
    model = SlurmOptions if cluster == "slurm" else LocalOptions
    return config.validate(model, raw, ("hydra", "launcher"))


def _executor(
    cluster: Literal["slurm", "local"],
    options: SlurmOptions | LocalOptions,
    folder: pathlib.Path,
) -> Any:
    """Makes a `submitit.AutoExecutor` with the options. Raises: ConfigError if SLURM is missing."""
    limits = {f"{cluster}_max_num_timeout": options.max_num_timeout}
    try:
        executor = group_task.import_submitit().AutoExecutor(folder, cluster=cluster, **limits)
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
    """Renames options for `AutoExecutor.update_parameters`; None is its default."""
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
    """Creates the run directories. Raises: ConfigError if one is not empty, unless all resume."""
    paths = launching.job_directories(jobs)
    resume = all(job.config.resume is not None for job in jobs)
    for path in paths:
        storage.claim(path, resume)
    for path in paths:
        if any(path.iterdir()) and not resume:
            _remove_empty(paths)
            raise config.ConfigError(
                f"run directory: {str(path)!r} is not empty; resume it with resume=auto, or choose "
                "another hydra.sweep.dir or hydra.sweep.subdir"
            )
    return paths


def _remove_empty(paths: Sequence[pathlib.Path]) -> None:
    """Removes the run directories that are empty."""
    for path in paths:
        with contextlib.suppress(OSError):  # not empty
            path.rmdir()


def _wait(
    queue: job_queue.JobQueue, cluster: Literal["slurm", "local"], paths: Sequence[pathlib.Path]
) -> None:
    try:
        queue.wait()
    except config.ConfigError:
        _remove_empty(paths)
        raise
    except KeyboardInterrupt:
        if cluster == "slurm":
            queue.leave()
        else:
            queue.cancel()
        raise SystemExit(signals.exit_code()) from None


def _job_list(jobs: Sequence[int], first: int, limit: int = 6) -> str:
    """Returns `job 3`, `jobs 0, 2` or `jobs 0, 1, 2, 3, 4, ..., 99`."""
    numbers = [str(first + i) for i in jobs]
    if len(numbers) > limit:
        numbers[limit - 1 : -1] = ["..."]
    return f"{'job' if len(jobs) == 1 else 'jobs'} {', '.join(numbers)}"
