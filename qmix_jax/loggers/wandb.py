"""Weights & Biases: one W&B run per seed, in one W&B group; the W&B step is env steps.

A resumed run continues the same W&B runs. W&B ignores rows written again, because its steps must
increase.
"""

import os
import pathlib
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from qmix_jax import config
from qmix_jax.loggers import base

_FINISH_S = 120.0
"""Seconds to wait at the end for the upload of the last rows, which also stay on disk."""
_GROUP_LENGTH = 128
"""Maximum length of a W&B group name."""


class Config(config.Model):
    """Options."""

    project: str = "qmix_jax"
    """W&B project."""
    entity: str | None = None
    """W&B user or team; None: the default of the account."""
    mode: Literal["online", "offline", "disabled"] | None = None
    """None: the environment variable WANDB_MODE, else `online`."""
    name: str | None = None
    """Names W&B runs `<name>-seed<seed>`; None: `<name of the run>-<algorithm>`."""
    group: str | None = None
    """W&B group of all seeds; None: the last three folders of the run directory."""
    tags: tuple[str, ...] = ()
    """W&B tags."""


def check(cfg: Config) -> None:
    """Raises: ConfigError if the extra is missing, or the mode needs a login that is missing."""
    base.require("wandb", "wandb")
    if _mode(cfg) != "online":
        return
    import wandb

    try:
        logged_in = wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise config.ConfigError(f"config: logger=wandb: {reason}; run `wandb login`") from error
    if not logged_in:
        raise config.ConfigError(
            "config: logger=wandb has mode online, but there is no API key; run `wandb login`, set "
            "WANDB_API_KEY, or set logger.wandb.mode=offline and upload later with `wandb sync`"
        )


def make(cfg: Config, run: base.RunInfo) -> base.Logger:
    """Starts one W&B run per member."""
    members = _start_all(cfg, run)

    def write(rows: Sequence[base.Row]) -> None:
        for row in rows:
            values = {name: row[name] for name in row if name not in ("kind", "seed")}
            members[row["seed"]].log(values, step=row["env_steps"])

    def close(failed: bool) -> None:
        for member in members.values():
            member.finish(exit_code=int(failed))

    return base.Logger(_where(cfg, run, members), write, close)


def _mode(cfg: Config) -> str:
    return cfg.mode or os.environ.get("WANDB_MODE") or "online"


def _start_all(cfg: Config, run: base.RunInfo) -> dict[int, Any]:
    """Returns seed -> W&B run; if one fails to start, the others are finished."""
    members: dict[int, Any] = {}
    try:
        for seed in run.seeds:
            members[seed] = _start(cfg, run, seed)
    except BaseException:
        for member in members.values():
            member.finish(exit_code=1)
        raise
    return members


def _start(cfg: Config, run: base.RunInfo, seed: int) -> Any:
    """Starts the W&B run of one member."""
    import wandb

    name = cfg.name or f"{run.config['name']}-{run.config['algo']['name']}"
    member = wandb.init(
        project=cfg.project,
        entity=cfg.entity,
        mode=_mode(cfg),  # pyright: ignore
        name=f"{name}-seed{seed}",
        group=_group(cfg, run),
        tags=cfg.tags,
        config={**run.config, "seed": seed, "seeds": 1},
        dir=str(run.directory),
        id=_run_id(run, seed),
        resume=None if run.resumed_after is None else "allow",
        reinit="create_new",
        settings=wandb.Settings(
            silent=True,
            console="off",  # the terminal shows the progress
            finish_timeout=_FINISH_S,
            x_disable_stats=seed != run.seeds[0],  # record system metrics once
        ),
    )
    member.define_metric("env_steps", hidden=True)
    member.define_metric("*", step_metric="env_steps")
    return member


def _run_id(run: base.RunInfo, seed: int) -> str:
    """Returns the W&B id of a member: random for a new run, read from its file when resumed."""
    file = run.directory / "wandb" / f"seed_{seed}.id"
    if run.resumed_after is not None and file.is_file():
        return file.read_text(encoding="utf-8")
    file.parent.mkdir(exist_ok=True)
    run_id = uuid.uuid4().hex[:12]
    file.write_text(run_id, encoding="utf-8")
    return run_id


def _group(cfg: Config, run: base.RunInfo) -> str:
    return cfg.group or "/".join(run.directory.parts[-3:])[-_GROUP_LENGTH:]


def _where(cfg: Config, run: base.RunInfo, members: dict[int, Any]) -> str:
    if _mode(cfg) == "disabled":
        return "disabled, nothing is written"
    if _mode(cfg) == "offline":
        files = pathlib.Path(run.directory, "wandb", "offline-run-*")
        return f"offline; upload with: wandb sync {files}"
    return f"group {_group(cfg, run)} at {next(iter(members.values())).project_url}"
