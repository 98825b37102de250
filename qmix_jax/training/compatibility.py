"""Finds the checkpoint that a run resumes from, and checks what may have changed since."""

import datetime
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qmix_jax import config, groups, population
from qmix_jax.runs import checkpoint, jobs, metadata, record, storage
from qmix_jax.training import halving

MAY_CHANGE = (
    "checkpoint", "compile_cache", "eval", "name", "population.devices", "population.memory",
    "population.slices", "resume", "logger", "stop", "trainer.env_steps", "trainer.log_every",
)  # fmt: skip
"""Keys that may change, with all keys below them, when a run is resumed."""


def check_config(
    previous: Mapping[str, Any], cfg: config.ExperimentConfig, run: pathlib.Path
) -> None:
    """Checks that `cfg` may resume a run trained with `previous`, from `config.dump`.

    Raises: ConfigError if a key outside `MAY_CHANGE` has changed.
    """
    planned = metadata.read_manifest(run).get("plan", {}).get("capacity")
    was_derived, capacity = previous["replay"]["capacity"] is None, cfg.replay.capacity
    # A capacity that was derived from the number of env steps does not change with it.
    same_capacity = capacity is None or (was_derived and capacity == planned)
    changed = {
        key: values
        for key, values in groups.differences(previous, config.dump(cfg)).items()
        if not any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE)
        and not (key == "replay.capacity" and same_capacity)
    }
    if changed:
        changes = ", ".join(f"{key}={old!r} (now {new!r})" for key, (old, new) in changed.items())
        allowed = ", ".join(MAY_CHANGE)
        raise config.ConfigError(
            f"resume: {str(run)!r} was trained with {changes}; change it back, or choose "
            f"another hydra.run.dir; allowed to change: {allowed}"
        )


def resumed_config(cfg: config.ExperimentConfig, run: pathlib.Path) -> config.ExperimentConfig:
    """Returns the configuration to train with, adapted to the run in the directory, if any.

    A replay capacity that was derived from the number of env steps does not change with it.

    Raises: ConfigError if that run has another configuration, or cannot be lengthened.
    """
    if cfg.resume is None or not (run / "config.yaml").is_file():
        return cfg
    mapping = metadata.read_config(run / "config.yaml")
    check_config(mapping, cfg, run)
    manifest = metadata.read_manifest(run)
    if cfg.replay.capacity is not None or "plan" not in manifest:
        return cfg
    previous = config.load(mapping)
    same_length = previous.trainer.env_steps == cfg.trainer.env_steps
    if cfg.population.distributed and not same_length and record.read_summary(run) is not None:
        raise config.ConfigError(
            f"resume: {str(run)!r} was trained by several processes, whose checkpoints are removed "
            "at the end; change trainer.env_steps back"
        )
    if previous.replay.capacity is None and same_length:
        return cfg
    capacity = manifest["plan"]["capacity"]
    return cfg.model_copy(update={"replay": cfg.replay.model_copy(update={"capacity": capacity})})


def has_ended(cfg: config.ExperimentConfig, run: pathlib.Path) -> bool:
    """Whether a run to be resumed has nothing left to train."""
    summary = None if cfg.resume is None else record.read_summary(run)
    if summary is None or summary["interrupted"]:
        return False
    previous = metadata.read_run_config(run)
    same_rules = summary["stopped"] is None or previous.stop == cfg.stop
    return same_rules and previous.trainer.env_steps == cfg.trainer.env_steps


def find_checkpoint(
    runs: Sequence[jobs.Job],
    note: Callable[[str], None],
    halving: halving.Halving | None = None,
) -> checkpoint.SavedCheckpoint | None:
    """Returns the checkpoint from which jobs that train together resume; None to start again.

    Args:
      runs: the jobs; the checkpoints are in the first one's directory.
      note: prints a line.
      halving: of the jobs, if any.
    Raises: ConfigError if it is damaged or of other jobs, or exists although `resume` is null.
    """
    folder = runs[0].path / checkpoint.FOLDER
    if runs[0].config.resume is None:
        if checkpoint.complete_steps(folder):
            raise config.ConfigError(
                f"run directory: {str(folder)!r} has checkpoints of another run; choose another "
                "hydra.run.dir, or set resume=auto to resume it"
            )
        return None
    saved = checkpoint.newest(folder)
    if saved is None:
        _refuse_single(runs[0].path)
        for renamed in filter(None, (storage.set_aside(job.path) for job in runs)):
            note(f"resume: no checkpoint in {str(folder)!r}; starting again, old rows in {renamed}")
        return None
    previous = saved.meta["jobs"]
    before, now = _describe(len(previous), saved.meta["halving"]), _describe(len(runs), halving)
    if before != now:
        raise config.ConfigError(
            f"resume: {str(saved.path)!r} is of {before}, but this is {now}; resume all runs that "
            "were started together"
        )
    for mapping, job in zip(previous, runs, strict=True):
        check_config(mapping, job.config, job.path)
    note(f"resume: from {saved.path}")
    old, new = saved.meta["versions"], metadata.versions()
    if changed := [name for name in new if old.get(name) != new[name]]:
        listed = ", ".join(f"{name} {old.get(name)} (now {new[name]})" for name in changed)
        note(f"resume: the checkpoint was written with {listed}; results may differ in rounding")
    return saved


def check_progress(
    saved: checkpoint.SavedCheckpoint, groups: Sequence[jobs.Group], n_fit: int | None
) -> None:
    """Checks that training can continue from a checkpoint, if `n_fit` members fit (None: all).

    Raises: ConfigError if more members are in training than fit, the checkpoint is past the end, or
      the length of the runs has changed although some may have ended.
    """
    if saved.meta["halving"] or saved.meta["outcomes"]:
        _refuse_changed_length(saved, [job for group in groups for job in group.jobs])
    for training, group in zip(saved.meta["groups"], groups, strict=True):
        if training is None:
            continue
        if n_fit is not None and len(training["members"]) > n_fit:
            raise config.ConfigError(
                f"resume: {len(training['members'])} members trained together, but now only "
                f"{n_fit} fit; raise population.memory, or free some"
            )
        plan = group.program.plan
        if plan.n_updates < training["update"]:
            raise config.ConfigError(
                f"resume: trainer.env_steps ends at env step {plan.env_steps:,}, but "
                f"{str(saved.path)!r} is at {plan.env_steps_at(training['update']):,}; raise it"
            )


def _refuse_changed_length(saved: checkpoint.SavedCheckpoint, runs: Sequence[jobs.Job]) -> None:
    """Raises: ConfigError if `trainer.env_steps` differs from that of the checkpoint."""
    for previous, job in zip(saved.meta["jobs"], runs, strict=True):
        was, now = previous["trainer"]["env_steps"], job.config.trainer.env_steps
        if was != now:
            raise config.ConfigError(
                f"resume: trainer.env_steps={now}, was {was}, but some members that train together "
                "may have ended (slices, successive halving, stop rules); change it back"
            )


def check_arrays(
    members: population.Population, arrays: Mapping[str, np.ndarray], path: pathlib.Path
) -> None:
    """Raises: ConfigError if the arrays of a checkpoint are of another program."""
    try:
        members.check(arrays)
    except ValueError as error:
        raise config.ConfigError(
            f"resume: {str(path)!r} is of another program ({error}); remove the folder "
            f"{checkpoint.FOLDER!r} to start again"
        ) from error


def _refuse_single(run: pathlib.Path) -> None:
    """Raises: ConfigError for one run of several, whose checkpoints are in another directory."""
    folder = run / metadata.read_manifest(run).get("checkpoints", checkpoint.FOLDER)
    if folder.resolve() != (run / checkpoint.FOLDER).resolve():
        raise config.ConfigError(
            f"resume: {str(run)!r} was trained together with other runs, and the checkpoints of "
            f"all are in {str(folder.resolve())!r}; resume all runs that were started together"
        )


def _describe(n_runs: int, halving: Sequence[Any] | None) -> str:
    """`halving`: a `Halving`, or its JSON."""
    rungs = f", with halving at {list(halving[0])} to {halving[1]:g}" if halving else ""
    return f"{n_runs} run(s) trained together{rungs}"


def manifest_history(
    run: pathlib.Path, checkpoints: pathlib.Path, env_steps: int | None = None
) -> dict[str, Any]:
    """Returns manifest fields of a run that starts, or resumes at `env_steps`.

    `checkpoints`: its folder, which may be in the directory of another run.
    """
    fields = {"checkpoints": os.path.relpath(checkpoints, run)}
    if env_steps is None:
        return fields
    previous = metadata.read_manifest(run)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    resumed = [*previous.get("resumed", []), {"at": now, "env_steps": env_steps}]
    return {**fields, "started": previous.get("started", now), "resumed": resumed}
