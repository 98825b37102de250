"""Weights & Biases: a W&B run per seed, all seeds of a run in one W&B group; its step is env steps.

A run that goes on adds to the same W&B runs. Rows that come again W&B ignores, for its steps only
rise.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

from qmix_jax import config
from qmix_jax.loggers import base

_FINISH_S = 120.0
"""How long a finished run waits for its last rows to be uploaded; they stay on disk."""
_GROUP_LENGTH = 128
"""W&B takes no longer name of a group."""


class Config(config.Model):
    """Options."""

    project: str = "qmix_jax"
    """W&B project."""
    entity: str | None = None
    """W&B user or team; None takes the account's default."""
    mode: Literal["online", "offline", "disabled"] | None = None
    """None takes WANDB_MODE, and without it `online`."""
    name: str | None = None
    """W&B runs are called `<name>-seed<seed>`; None takes `<name of the run>-<algorithm>`."""
    group: str | None = None
    """W&B group of all seeds; None takes the last folders of the run directory."""
    tags: tuple[str, ...] = ()
    """W&B tags."""


def check(cfg: Config) -> None:
    """Raises: ConfigError without the extra, or without a login where one is needed."""
    base.require("wandb", "wandb")
    if _mode(cfg) != "online":
        return
    import wandb

    try:
        known = wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise config.ConfigError(f"config: logger=wandb: {reason}; run `wandb login`") from error
    if not known:
        raise config.ConfigError(
            "config: logger=wandb sends online, but there is no API key; run `wandb login` or set "
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
    """Seed -> W&B run. Where one cannot be started, those before it are ended."""
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
    """The W&B run of one member."""
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
        id=_identity(run, seed),
        resume=None if run.resumed_after is None else "allow",
        reinit="create_new",
        settings=wandb.Settings(
            silent=True,
            console="off",  # the terminal belongs to the progress display
            finish_timeout=_FINISH_S,
            x_disable_stats=seed != run.seeds[0],  # of the machine: once is enough
        ),
    )
    member.define_metric("env_steps", hidden=True)
    member.define_metric("*", step_metric="env_steps")
    return member


def _identity(run: base.RunInfo, seed: int) -> str:
    """The id of a member's W&B run: of a new run a random one, kept for the time it goes on."""
    from wandb.sdk.lib import runid

    file = run.directory / "wandb" / f"seed_{seed}.id"
    if run.resumed_after is not None and file.is_file():
        return file.read_text(encoding="utf-8")
    file.parent.mkdir(exist_ok=True)
    identity = runid.generate_id()
    file.write_text(identity, encoding="utf-8")
    return identity


def _group(cfg: Config, run: base.RunInfo) -> str:
    return cfg.group or "/".join(run.directory.parts[-3:])[-_GROUP_LENGTH:]


def _where(cfg: Config, run: base.RunInfo, members: dict[int, Any]) -> str:
    if _mode(cfg) == "disabled":
        return "disabled, nothing is kept"
    if _mode(cfg) == "offline":
        kept = pathlib.Path(run.directory, "wandb", "offline-run-*")
        return f"offline; upload it with: wandb sync {kept}"
    return f"group {_group(cfg, run)} at {next(iter(members.values())).project_url}"
