"""TensorBoard event files, written without TensorFlow: a run of TensorBoard's per seed, over env
steps, with the hyper-parameters for its HPARAMS tab.

A run that goes on adds a file that purges, in TensorBoard, what came after the row it goes on from.
"""

import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from qmix_jax import config
from qmix_jax.loggers import base

_HPARAMS = ("hparams", "optimiser", "replay", "trainer")
"""Sections shown in the HPARAMS tab, with the names of the algorithm, environment and agent."""


class Config(config.Model):
    """Options."""

    folder: str = "tensorboard"
    """Folder of the run directory that gets a folder `seed_<seed>` per member."""
    hparams: bool = True
    """Also write the configuration, for the HPARAMS and TEXT tabs."""


def check(cfg: Config) -> None:
    """Raises: ConfigError without the extra, or if `folder` leads out of the run directory."""
    base.require("tensorboard", "tensorboardX")
    folder = pathlib.PurePath(cfg.folder)
    if folder.is_absolute() or ".." in folder.parts or not folder.parts:
        raise config.ConfigError(
            f"config: logger.tensorboard.folder={cfg.folder!r} must be a folder inside the run "
            "directory; give a relative path such as 'tensorboard'"
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

    return base.Logger(f"see it with: tensorboard --logdir {folder}", write, close)


class _Events:
    """The event file of one member. What cannot be written is an error at once, not a lost queue:
    `tensorboardX.SummaryWriter` writes in a thread whose end nobody sees.
    """

    def __init__(self, folder: pathlib.Path, purge_after: int | None) -> None:
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._proto, self._summary = event_pb2, summary
        folder.mkdir(parents=True, exist_ok=True)
        n_before = len(list(folder.glob("events.*")))  # two in one second need different names
        self._file = event_file_writer.EventsWriter(str(folder / "events"), f".{n_before}")
        self.new = not n_before
        if purge_after is not None:
            started = {"status": "START"}
            self._add(purge_after + 1, session_log=started)
        self._file.flush()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._add(step, summary=self._summary.scalar(name, value))
        self._file.flush()

    def describe(self, run: base.RunInfo, seed: int) -> None:
        """Writes the configuration."""
        scores = dict.fromkeys(name for name in run.columns if name.startswith("eval/"))
        started, values, _ = self._summary.hparams(_hparams(run.config, seed), scores)
        text = json.dumps({**run.config, "seed": seed, "seeds": 1}, indent=2)
        shown = "\n".join(f"    {line}" for line in text.splitlines())  # a block of code
        for part in (started, values, self._summary.text("config", shown)):
            self._add(0, summary=part)
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _add(self, step: int, **content: Any) -> None:
        self._file.write_event(self._proto.Event(wall_time=time.time(), step=step, **content))


def _hparams(cfg: base.Row, seed: int) -> dict[str, Any]:
    chosen = {name: cfg[name]["name"] for name in ("algo", "env", "agent")}
    numbers = base.flatten({name: cfg[name] for name in _HPARAMS})
    plain = {
        name: value if isinstance(value, str | bool | int | float) else json.dumps(value)
        for name, value in numbers
        if value is not None
    }
    return {**chosen, "seed": seed, **plain}
