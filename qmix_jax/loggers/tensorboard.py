"""TensorBoard event files, written without TensorFlow.

Each seed is a TensorBoard run over env steps, with its hyperparameters in the HPARAMS tab. A
resumed run adds a file in which TensorBoard purges the events after the checkpoint.
"""

import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from qmix_jax import config, groups
from qmix_jax.loggers import base

_HPARAMS = ("hparams", "optimiser", "replay", "trainer")
"""Sections of the HPARAMS tab, besides the names of algorithm, environment and agent."""


class Config(config.Model):
    """Options."""

    folder: str = "tensorboard"
    """Subfolder of the run directory, with a folder `seed_<seed>` per member."""
    hparams: bool = True
    """Whether to write the configuration for the HPARAMS and TEXT tabs."""


def check(cfg: Config) -> None:
    """Raises: ConfigError if the extra is missing or `folder` is outside the run directory."""
    base.require("tensorboard", "tensorboardX")
    folder = pathlib.PurePath(cfg.folder)
    if folder.is_absolute() or ".." in folder.parts or not folder.parts:
        raise config.ConfigError(
            f"config: logger.tensorboard.folder={cfg.folder!r} is not inside the run directory; "
            "give a relative path such as 'tensorboard'"
        )


def make(cfg: Config, run: base.RunInfo) -> base.Logger:
    """Opens one event file per member."""
    folder = run.directory / cfg.folder
    after = run.resumed_after or {}
    members = {seed: _Events(folder / f"seed_{seed}", after.get(seed)) for seed in run.seeds}
    for seed, events in members.items():
        if cfg.hparams and events.new:
            events.describe(run, seed)

    def write(rows: Sequence[base.Row]) -> None:
        for row in rows:
            members[row["seed"]].scalars(row["env_steps"], base.metrics(row))

    def close(failed: bool) -> None:
        for events in members.values():
            events.close()

    return base.Logger(f"view with: tensorboard --logdir {folder}", write, close)


class _Events:
    """The event file of one member.

    Writes synchronously, so that errors are raised: `tensorboardX.SummaryWriter` loses the events
    of its thread silently.
    """

    def __init__(self, folder: pathlib.Path, purge_after: int | None) -> None:
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._proto, self._summary = event_pb2, summary
        folder.mkdir(parents=True, exist_ok=True)
        n_before = len(list(folder.glob("events.*")))  # files of one second need different names
        self._file = event_file_writer.EventsWriter(str(folder / "events"), f".{n_before}")
        self.new = not n_before
        if purge_after is not None:
            self._add(purge_after + 1, session_log={"status": "START"})
        self._file.flush()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._add(step, summary=self._summary.scalar(name, value))
        self._file.flush()

    def describe(self, run: base.RunInfo, seed: int) -> None:
        """Writes the configuration."""
        scores = dict.fromkeys(name for name in run.columns if name.startswith("eval/"))
        experiment, session, _ = self._summary.hparams(_hparams(run.config, seed), scores)
        text = json.dumps({**run.config, "seed": seed, "seeds": 1}, indent=2)
        code_block = "\n".join(f"    {line}" for line in text.splitlines())
        for part in (experiment, session, self._summary.text("config", code_block)):
            self._add(0, summary=part)
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _add(self, step: int, **content: Any) -> None:
        self._file.write_event(self._proto.Event(wall_time=time.time(), step=step, **content))


def _hparams(cfg: base.Row, seed: int) -> dict[str, Any]:
    components = {name: cfg[name]["name"] for name in ("algo", "env", "agent")}
    settings = {
        name: value if isinstance(value, str | bool | int | float) else json.dumps(value)
        for name, value in groups.flatten({name: cfg[name] for name in _HPARAMS}).items()
        if value is not None
    }
    return {**components, "seed": seed, **settings}
