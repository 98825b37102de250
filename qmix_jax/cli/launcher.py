"""The fused launcher, `hydra/launcher=fused`: the jobs of a multirun as members of populations."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import omegaconf
from hydra.core import utils

from qmix_jax import config, groups
from qmix_jax.cli import composition

failures: list[str] = []
"""One message per member that diverged in a sweep of this process; the exit code is then 1."""


def launch(
    context: Any,
    root: omegaconf.DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    max_programs: int | None,
) -> list[utils.JobReturn]:
    """Trains all jobs together.

    Args:
      context, root: from Hydra.
      job_overrides: overrides of each job.
      first: number of the first job.
      max_programs: limit on compiled programs, None for no limit.
    Returns:
      One `JobReturn` per job; its value is the job's objective.
    Raises:
      ConfigError: an invalid job, before anything is compiled.
      SystemExit: 128 + the number of a signal that ended training (130: Ctrl-C); 1 if another
        process failed or is lost, or the disk is full.
    """
    from qmix_jax import api  # imports JAX, for which `--help` need not wait
    from qmix_jax.machine import process_group, signals
    from qmix_jax.runs import checkpoint

    composed, jobs = prepare(context, root, job_overrides, first, max_programs)
    try:
        results = api.train_many(jobs, root.hydra.sweep.dir)
    except (process_group.ProcessError, checkpoint.WriteError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    for number, result in enumerate(results, first):
        messages = {} if result is None else result.failures
        failures.extend(f"job {number}: {message}" for message in messages.values())
    if any(result is None or result.interrupted for result in results):
        raise SystemExit(signals.exit_code())
    objectives = [None if result is None else result.objective for result in results]
    return job_returns(job_overrides, composed, jobs, objectives)


def prepare(
    context: Any,
    root: omegaconf.DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    max_programs: int | None,
) -> tuple[list[omegaconf.DictConfig], list[Any]]:
    """Composes and checks all jobs; arguments and errors as for `launch`.

    Returns:
      The configurations with Hydra's node, and the `api.Job` of each.
    """
    composer = composition.Composer(context.config_loader, root.hydra.job.config_name)
    composed = [
        composer.job(root, overrides, number)
        for number, overrides in enumerate(job_overrides, first)
    ]
    jobs = [
        make_job(overrides, job) for overrides, job in zip(job_overrides, composed, strict=True)
    ]
    _check_programs([job.config for job in jobs], max_programs)
    return composed, jobs


def job_returns(
    job_overrides: Sequence[Sequence[str]],
    composed: Sequence[omegaconf.DictConfig],
    jobs: Sequence[Any],
    objectives: Sequence[float | None],
) -> list[utils.JobReturn]:
    """Returns the records of the jobs that Hydra expects."""
    returns = [
        utils.JobReturn(
            overrides=list(overrides),
            cfg=cfg,
            working_dir=str(job.directory),
            task_name="qmix_jax",
            status=utils.JobStatus.COMPLETED,
        )
        for overrides, cfg, job in zip(job_overrides, composed, jobs, strict=True)
    ]
    for returned, objective in zip(returns, objectives, strict=True):
        returned.return_value = objective
    return returns


def make_job(overrides: Sequence[str], composed: omegaconf.DictConfig) -> Any:
    """Returns an `api.Job`. Raises: ConfigError for an invalid setting."""
    from qmix_jax import api

    cfg = config.load(composition.task(composed))
    return api.Job(
        config=cfg,
        directory=pathlib.Path(composed.hydra.sweep.dir) / composed.hydra.sweep.subdir,
        command=composition.command(composed.hydra, list(composed.hydra.overrides.task)),
        label=" ".join(overrides),
    )


def _check_programs(configs: Sequence[config.ExperimentConfig], limit: int | None) -> None:
    programs = groups.split(configs)
    if limit is None or len(programs) <= limit:
        return
    keys = ", ".join(groups.separating_keys(programs))
    raise config.ConfigError(
        f"sweep: {len(configs)} jobs need {len(programs)} compiled programs, more than "
        f"hydra.launcher.max_programs={limit}: they differ in static keys ({keys}), which change "
        f"shapes, branches or loop lengths; sweep only {', '.join(groups.TRACED)}, or raise "
        "the limit"
    )
