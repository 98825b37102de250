"""Going on with what is in a directory: a run or a sweep that was cut short or is to be longer."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from qmix_jax import api, config
from qmix_jax.runtime import checkpoint, provenance, rows, sweep_index


def resume(
    directory: str | os.PathLike[str], changes: Mapping[str, Any] | None = None
) -> api.Result:
    """Goes on with a run from its last checkpoint, to the numbers it would have had uncut.

    Bit for bit on a CPU where members take turns (`population.batching=map`), with the same
    versions; to rounding elsewhere. Rows later than the checkpoint are dropped.

    Args:
      directory: of the run.
      changes: dotted keys -> values, where only total steps, evaluation, sinks, checkpoints and
        what does not change results may differ: `{"trainer.env_steps": 1_000_000}`.
    Returns, raises: as `qmix_jax.train`; ConfigError also where there is no checkpoint, or it is
      damaged or another run's.
    """
    path = pathlib.Path(directory)
    cfg = config.load(provenance.read_config(path / "config.yaml"))
    parts = [path, *path.glob(f"{rows.PART}*")]
    if not any(checkpoint.whole_steps(part / checkpoint.FOLDER) for part in parts):
        raise config.ConfigError(
            f"resume: no checkpoint in {str(path / checkpoint.FOLDER)!r}; give the directory of "
            "the whole sweep if the run trained in one; resume=auto with hydra.run.dir begins anew"
        )
    return api.train(_changed(cfg, changes), path, provenance.command(path))


def resume_many(
    directory: str | os.PathLike[str], changes: Mapping[str, Any] | None = None
) -> tuple[api.Result | None, ...]:
    """Goes on with a sweep of `train_many` or `hydra/launcher=fused`, from its checkpoints.

    Jobs that had ended are read back, others go on or begin.

    Args:
      directory: of the sweep, with its `sweep.json`.
      changes: as for `resume`, for every job.
    Returns, raises: as `qmix_jax.train_many`.
    """
    path = pathlib.Path(directory)
    try:
        known = json.loads((path / sweep_index.JOBS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise config.ConfigError(
            f"resume: cannot read {str(path / sweep_index.JOBS)!r} ({error}); give the directory "
            "of a fused sweep, or repeat its command with resume=auto and its hydra.sweep.dir"
        ) from error
    jobs = [
        api.Job(
            config=_changed(config.load(one["config"]), changes),
            directory=path / one["directory"],
            command=one["command"],
            label=one["overrides"],
        )
        for one in known["jobs"]
    ]
    halving = known["halving"] and api.Halving(tuple(known["halving"][0]), known["halving"][1])
    objective = api.Objective(*known["objective"])
    return api.train_many(jobs, path, halving=halving, objective=objective)


def is_sweep(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory is a sweep's."""
    return (pathlib.Path(directory) / sweep_index.JOBS).is_file()


def _changed(
    cfg: config.ExperimentConfig, changes: Mapping[str, Any] | None
) -> config.ExperimentConfig:
    return config.with_values(cfg, {**(changes or {}), "resume": "auto"})
