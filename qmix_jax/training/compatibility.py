"""Which checkpoint a run resumes from, and what may have changed since."""

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
"""Keys, with all below them, that may differ between a run and its resumption."""


def check(before: Mapping[str, Any], cfg: config.ExperimentConfig, where: pathlib.Path) -> None:
    """Whether a configuration may resume a run.

    Args:
      before: its configuration then, as from `config.dump`.
      cfg: its configuration now.
      where: for the message.
    Raises:
      ConfigError: it differs where it must not.
    """
    now = config.dump(cfg)
    now_capacity, was_derived = cfg.replay.capacity, before["replay"]["capacity"] is None
    planned = metadata.read_manifest(where).get("plan", {}).get("capacity")
    # A size that followed from the number of env steps is what it was.
    derived = now_capacity is None or (was_derived and now_capacity == planned)
    changed = {
        key: values
        for key, values in groups.differences(before, now).items()
        if not _may_change(key) and not (key == "replay.capacity" and derived)
    }
    if changed:
        listed = ", ".join(f"{key}={old!r} (now {new!r})" for key, (old, new) in changed.items())
        allowed = ", ".join(MAY_CHANGE)
        raise config.ConfigError(
            f"resume: {str(where)!r} was trained with {listed}; leave that as it was, or choose "
            f"another hydra.run.dir; what may change: {allowed}"
        )


def settle(cfg: config.ExperimentConfig, path: pathlib.Path) -> config.ExperimentConfig:
    """The configuration to train with, where a run may be in its directory already.

    A replay whose size followed from the number of env steps keeps its size when that changes.

    Raises:
      ConfigError: the run there is another one, or was longer.
    """
    if cfg.resume is None or not (path / "config.yaml").is_file():
        return cfg
    before = metadata.read_config(path / "config.yaml")
    check(before, cfg, path)
    manifest = metadata.read_manifest(path)
    if cfg.replay.capacity is not None or "plan" not in manifest:
        return cfg
    was = config.load(before)
    same = was.trainer.env_steps == cfg.trainer.env_steps
    if cfg.population.distributed and not same and record.reached(path) is not None:
        raise config.ConfigError(
            f"resume: {str(path)!r} was trained by several processes, whose checkpoints go when it "
            "ends; leave trainer.env_steps as it was"
        )
    if was.replay.capacity is None and same:
        return cfg
    capacity = manifest["plan"]["capacity"]
    return cfg.model_copy(update={"replay": cfg.replay.model_copy(update={"capacity": capacity})})


def ended(cfg: config.ExperimentConfig, path: pathlib.Path) -> bool:
    """Whether the run in a directory, which may be resumed, has nothing left to train."""
    if cfg.resume is None:
        return False
    reached = record.reached(path)
    if reached is None or reached["interrupted"]:
        return False
    before = metadata.read_run_config(path)
    same_rules = reached["stopped"] is None or before.stop == cfg.stop
    return same_rules and before.trainer.env_steps == cfg.trainer.env_steps


def saved(
    runs: Sequence[jobs.Job], note: Callable[[str], None], halving: halving.Halving | None = None
) -> checkpoint.SavedCheckpoint | None:
    """The checkpoint that runs which train together resume from; None to begin.

    Args:
      runs: in the first one's directory is the checkpoint.
      note: takes lines for the user.
      halving: how they end one after another, if they do.
    Raises:
      ConfigError: the checkpoint is damaged, or of other runs; or there is one of a run that is not
        to be resumed.
    """
    folder = runs[0].path / checkpoint.FOLDER
    if runs[0].config.resume is None:
        if checkpoint.whole_steps(folder):
            raise config.ConfigError(
                f"run directory: {str(folder)!r} has checkpoints of another run; choose another "
                "hydra.run.dir, or set resume=auto to resume it"
            )
        return None
    found = checkpoint.newest(folder)
    if found is None:
        _refuse_part(runs[0].path)
        for aside in filter(None, (storage.set_aside(job.path) for job in runs)):
            note(f"resume: no checkpoint in {str(folder)!r}; started again, old rows in {aside}")
        return None
    before = found.meta["jobs"]
    then, now = _together(len(before), found.meta["halving"]), _together(len(runs), halving)
    if then != now:
        raise config.ConfigError(
            f"resume: {str(found.path)!r} is of {then}, but this is {now}; resume everything that "
            "was started together"
        )
    for settings, job in zip(before, runs, strict=True):
        check(settings, job.config, job.path)
    note(f"resume: from {found.path}")
    if line := _other_versions(found.meta):
        note(line)
    return found


def check_progress(
    found: checkpoint.SavedCheckpoint, groups: Sequence[jobs.Group], n_together: int | None
) -> None:
    """Whether what is in progress in a checkpoint can be continued.

    Args:
      n_together: members that fit at a time; None for all.
    Raises:
      ConfigError: it has more members, or is later than the end; or the runs are to be longer,
        although some have ended.
    """
    if found.meta["halving"] or found.meta["outcomes"]:
        _refuse_longer(found, [job for group in groups for job in group.jobs])
    for begun, group in zip(found.meta["groups"], groups, strict=True):
        if begun is None:
            continue
        if n_together is not None and len(begun["members"]) > n_together:
            raise config.ConfigError(
                f"resume: {len(begun['members'])} members trained together, but now only "
                f"{n_together} fit; raise population.memory, or free some"
            )
        plan = group.program.plan
        if plan.n_updates < begun["update"]:
            raise config.ConfigError(
                f"resume: trainer.env_steps ends at env step {plan.env_steps:,}, but "
                f"{str(found.path)!r} is at {plan.env_steps_at(begun['update']):,}; raise it"
            )


def _refuse_longer(found: checkpoint.SavedCheckpoint, runs: Sequence[jobs.Job]) -> None:
    """Raises: ConfigError for runs of which some have ended, where others are to be longer now."""
    for before, job in zip(found.meta["jobs"], runs, strict=True):
        was, now = before["trainer"]["env_steps"], job.config.trainer.env_steps
        if was != now:
            raise config.ConfigError(
                f"resume: trainer.env_steps={now}, was {was}, but members that train together do "
                "not end together (slices, successive halving, stop rules), and some may have "
                "ended; leave it as it was"
            )


def check_arrays(
    members: population.Population, arrays: Mapping[str, np.ndarray], path: pathlib.Path
) -> None:
    """Raises: ConfigError for the arrays of another program's checkpoint."""
    try:
        members.check(arrays)
    except ValueError as error:
        raise config.ConfigError(
            f"resume: {str(path)!r} is not of this program ({error}); remove the folder "
            f"{checkpoint.FOLDER!r} to start again"
        ) from error


def _refuse_part(path: pathlib.Path) -> None:
    """Raises: ConfigError for one run of several, whose checkpoints are in another's directory."""
    place = path / metadata.read_manifest(path).get("checkpoints", checkpoint.FOLDER)
    if place.resolve() != (path / checkpoint.FOLDER).resolve():
        raise config.ConfigError(
            f"resume: {str(path)!r} was trained together with other runs, and the checkpoints of "
            f"all are in {str(place.resolve())!r}; resume everything that was started together"
        )


def _together(n_runs: int, halving: Sequence[Any] | None) -> str:
    """`halving` as JSON has it, or a `Halving`."""
    how = f", with halving at {list(halving[0])} to {halving[1]:g}" if halving else ""
    return f"{n_runs} run(s) trained together{how}"


def history(
    path: pathlib.Path, checkpoints: pathlib.Path, env_steps: int | None = None
) -> dict[str, Any]:
    """Fields of the manifest of a run that begins, or resumes at `env_steps`.

    Args:
      checkpoints: the folder that has them, maybe in the directory of a run it trains with.
    """
    place = {"checkpoints": os.path.relpath(checkpoints, path)}
    if env_steps is None:
        return place
    before = metadata.read_manifest(path)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    times = [*before.get("resumed", []), {"at": now, "env_steps": env_steps}]
    return {**place, "started": before.get("started", now), "resumed": times}


def _other_versions(meta: Mapping[str, Any]) -> str | None:
    """A line on versions that have changed since a checkpoint; None where none has."""
    was, now = meta["versions"], metadata.versions()
    other = [
        f"{name} {was.get(name)} (now {now[name]})" for name in now if was.get(name) != now[name]
    ]
    if not other:
        return None
    return f"resume: the checkpoint is of {', '.join(other)}; numbers may differ in rounding"


def _may_change(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE)
