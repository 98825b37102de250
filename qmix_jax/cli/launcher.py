"""The fused launcher: a multirun's jobs as members of populations (`hydra/launcher=fused`)."""

import pathlib
import shlex
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
      SystemExit: 130 after Ctrl-C.
    """
    from qmix_jax import api  # these bring in JAX, which `--help` need not wait for

    composed = [
        _compose(context, root, list(overrides), first + i)
        for i, overrides in enumerate(job_overrides)
    ]
    flags = _config_dir(root)
    jobs = [
        _job(flags, overrides, one) for overrides, one in zip(job_overrides, composed, strict=True)
    ]
    _check_programs([job.config for job in jobs], max_programs)
    results = api.train_many(jobs, root.hydra.sweep.dir)
    for number, result in enumerate(results, first):
        found = {} if result is None else result.failures
        failures.extend(f"job {number}: {text}" for text in found.values())
    if any(result is None or result.interrupted for result in results):
        raise SystemExit(130)
    return [
        utils.JobReturn(
            overrides=list(overrides),
            cfg=one,
            working_dir=str(job.directory),
            task_name="qmix_jax",
            status=utils.JobStatus.COMPLETED,
            _return_value=result.objective if result else None,
        )
        for overrides, one, job, result in zip(job_overrides, composed, jobs, results, strict=True)
    ]


def _compose(
    context: Any, root: omegaconf.DictConfig, overrides: list[str], number: int
) -> omegaconf.DictConfig:
    """The job's configuration, Hydra's node included, as Hydra's own launcher composes it."""
    composed = context.config_loader.load_sweep_config(root, overrides)
    with omegaconf.open_dict(composed):
        composed.hydra.job.id = str(number)
        composed.hydra.job.num = number
    return composed


def _job(flags: list[str], overrides: Sequence[str], composed: omegaconf.DictConfig) -> Any:
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


def _config_dir(root: omegaconf.DictConfig) -> list[str]:
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
