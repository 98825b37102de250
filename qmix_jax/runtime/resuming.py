"""Going on with a run: whether there is something to go on from, and whether it is the same run."""

import datetime
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qmix_jax import config, groups
from qmix_jax.runtime import checkpoint, jobs, provenance, record, sinks

MAY_CHANGE = (
    "checkpoint", "compile_cache", "eval", "name", "population.devices", "population.memory",
    "population.slices", "resume", "sink", "trainer.env_steps", "trainer.log_every",
)  # fmt: skip
"""Keys, with all below them, in which a run that goes on may differ from what it was."""


def check(before: Mapping[str, Any], cfg: config.ExperimentConfig, where: pathlib.Path) -> None:
    """Whether a run goes on as what it was.

    Args:
      before: its configuration then, as from `config.dump`.
      cfg: its configuration now.
      where: for the message.
    Raises:
      ConfigError: it differs where it must not.
    """
    now = config.dump(cfg)
    now_capacity, was_derived = cfg.replay.capacity, before["replay"]["capacity"] is None
    planned = _manifest(where).get("plan", {}).get("capacity")
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
    before = provenance.read_config(path / "config.yaml")
    check(before, cfg, path)
    manifest = _manifest(path)
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
    """Whether the run in a directory, which may go on, has nothing left to train."""
    if cfg.resume is None:
        return False
    reached = record.reached(path)
    if reached is None or reached["interrupted"]:
        return False
    before = config.load(provenance.read_config(path / "config.yaml"))
    return before.trainer.env_steps == cfg.trainer.env_steps


def saved(
    runs: Sequence[jobs.Job], note: Callable[[str], None], halving: bool = False
) -> checkpoint.Saved | None:
    """What runs that train together go on from; None to begin.

    Args:
      runs: in the first one's directory is the checkpoint.
      note: takes lines for the user.
      halving: they end one after another, by successive halving.
    Raises:
      ConfigError: the checkpoint is damaged, or of other runs; or there is one of a run that is not
        to go on.
    """
    folder = runs[0].path / checkpoint.FOLDER
    if runs[0].config.resume is None:
        if checkpoint.whole_steps(folder):
            raise config.ConfigError(
                f"run directory: {str(folder)!r} has checkpoints of another run; choose another "
                "hydra.run.dir, or set resume=auto to go on"
            )
        return None
    found = checkpoint.newest(folder)
    if found is None:
        _refuse_part(runs[0].path)
        for aside in filter(None, (sinks.set_aside(job.path) for job in runs)):
            note(f"resume: no checkpoint in {str(folder)!r}; begun anew, old rows in {aside}")
        return None
    before = found.meta["jobs"]
    if len(before) != len(runs) or halving != ("tracks" in found.meta):
        raise config.ConfigError(
            f"resume: {str(found.path)!r} is of {_together(len(before), 'tracks' in found.meta)}, "
            f"but this is {_together(len(runs), halving)}; resume the whole of what was started"
        )
    for settings, job in zip(before, runs, strict=True):
        check(settings, job.config, job.path)
    note(f"resume: from {found.path}")
    if line := _other_versions(found.meta):
        note(line)
    return found


def _refuse_part(path: pathlib.Path) -> None:
    """Raises: ConfigError for one run of several, whose checkpoints are in another's directory."""
    place = path / _manifest(path).get("checkpoints", checkpoint.FOLDER)
    if place.resolve() != (path / checkpoint.FOLDER).resolve():
        raise config.ConfigError(
            f"resume: {str(path)!r} was trained together with other runs, and the checkpoints of "
            f"all are in {str(place.resolve())!r}; resume the whole of what was started"
        )


def _together(n_runs: int, halving: bool) -> str:
    return f"{n_runs} run(s) trained together{' with halving' if halving else ''}"


def history(
    path: pathlib.Path, checkpoints: pathlib.Path, env_steps: int | None = None
) -> dict[str, Any]:
    """Fields of the manifest of a run that begins, or goes on at `env_steps`.

    Args:
      checkpoints: the folder that has them, maybe in the directory of a run it trains with.
    """
    place = {"checkpoints": os.path.relpath(checkpoints, path)}
    if env_steps is None:
        return place
    before = _manifest(path)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    times = [*before.get("resumed", []), {"at": now, "env_steps": env_steps}]
    return {**place, "started": before.get("started", now), "resumed": times}


def _other_versions(meta: Mapping[str, Any]) -> str | None:
    """A line on what is not as it was when a checkpoint was made; None where nothing is."""
    was, now = meta["versions"], provenance.versions()
    other = [
        f"{name} {was.get(name)} (now {now[name]})" for name in now if was.get(name) != now[name]
    ]
    if not other:
        return None
    return f"resume: the checkpoint is of {', '.join(other)}; numbers may differ in rounding"


def _may_change(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE)


def _manifest(path: pathlib.Path) -> dict[str, Any]:
    file = path / "manifest.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
