"""The fused launcher: a multirun's jobs as members of populations (`hydra/launcher=fused`)."""

import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import omegaconf
from hydra.core import hydra_config, utils

from qmix_jax import config, groups
from qmix_jax.cli import composition

failures: list[str] = []
"""What became of members that diverged in this process's sweeps, for the exit code."""


def launch(
    context: Any,
    root: omegaconf.DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    max_programs: int | None,
) -> list[utils.JobReturn]:
    """Trains all jobs together.

    Args:
      context, root: Hydra's.
      job_overrides: of each job.
      first: number of the first job.
      max_programs: the most compiled programs allowed, None for any number.
    Returns:
      One `JobReturn` per job, its value the job's objective.
    Raises:
      ConfigError: a job that cannot be honoured, before anything is compiled.
      SystemExit: 128 + the number of a signal that ended it (130: Ctrl-C), 1 where another process
        failed or is lost, or the disk is full.
    """
    from qmix_jax import api  # these bring in JAX, which `--help` need not wait for
    from qmix_jax.machine import process_group, signals
    from qmix_jax.runs import checkpoint

    composed, jobs = prepare(context, root, job_overrides, first, max_programs)
    try:
        results = api.train_many(jobs, root.hydra.sweep.dir)
    except (process_group.ProcessError, checkpoint.WriteError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    for number, result in enumerate(results, first):
        found = {} if result is None else result.failures
        failures.extend(f"job {number}: {text}" for text in found.values())
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
      Configurations, Hydra's node included, and an `api.Job` each.
    """
    composed = [
        compose(context, root, list(overrides), first + i)
        for i, overrides in enumerate(job_overrides)
    ]
    flags = config_dir(root)
    jobs = [
        make_job(flags, overrides, one)
        for overrides, one in zip(job_overrides, composed, strict=True)
    ]
    _check_programs([job.config for job in jobs], max_programs)
    return composed, jobs


def job_returns(
    job_overrides: Sequence[Sequence[str]],
    composed: Sequence[omegaconf.DictConfig],
    jobs: Sequence[Any],
    objectives: Sequence[float | None],
) -> list[utils.JobReturn]:
    """What Hydra gets back of every job."""
    return [
        utils.JobReturn(
            overrides=list(overrides),
            cfg=one,
            working_dir=str(job.directory),
            task_name="qmix_jax",
            status=utils.JobStatus.COMPLETED,
            _return_value=objective,
        )
        for overrides, one, job, objective in zip(
            job_overrides, composed, jobs, objectives, strict=True
        )
    ]


def compose(
    context: Any, root: omegaconf.DictConfig, overrides: list[str], number: int
) -> omegaconf.DictConfig:
    """The job's configuration, Hydra's node included, as Hydra's own launcher composes it."""
    composed = context.config_loader.load_sweep_config(root, overrides)
    with omegaconf.open_dict(composed):
        composed.hydra.job.id = str(number)
        composed.hydra.job.num = number
    return composed


def make_job(flags: list[str], overrides: Sequence[str], composed: omegaconf.DictConfig) -> Any:
    """An `api.Job`. Raises: ConfigError for a setting that cannot be honoured."""
    from qmix_jax import api

    hydra_config.HydraConfig.instance().set_config(composed)  # for ${hydra:...}
    directory = pathlib.Path(composed.hydra.sweep.dir) / composed.hydra.sweep.subdir
    task = omegaconf.OmegaConf.masked_copy(
        composed, [str(key) for key in composed if key != "hydra"]
    )
    own = list(composed.hydra.overrides.task)
    return api.Job(
        config=config.load(composition.resolve(task)),
        directory=directory,
        command=shlex.join(["qmix-jax", "train", *flags, *own]),
        label=" ".join(overrides),
    )


def config_dir(root: omegaconf.DictConfig) -> list[str]:
    """The `--config-dir` that the user gave, as arguments."""
    sources = root.hydra.runtime.config_sources
    return [
        part
        for source in sources
        if source.provider == "command-line"
        for part in ("--config-dir", source.path)
    ]


def _check_programs(configs: Sequence[config.ExperimentConfig], most: int | None) -> None:
    found = groups.split(configs)
    if most is None or len(found) <= most:
        return
    keys = ", ".join(groups.separating_keys(found))
    raise config.ConfigError(
        f"sweep: {len(configs)} jobs need {len(found)} compiled programs, more than "
        f"hydra.launcher.max_programs={most}: they differ in static keys ({keys}), which change "
        f"shapes, branches or loop lengths; sweep only {', '.join(groups.TRACED)}, or raise it"
    )
