"""A user-defined logger: records its rows in a file, or fails on request."""

import json
import pathlib
from collections.abc import Sequence
from typing import Literal

from qmix_jax import config
from qmix_jax.loggers import base


class Config(config.Model):
    """Options."""

    breaks: Literal["make", "write", "close"] | None = None
    """The function that raises."""
    after: config.Count = 0
    """Calls of `write` before it raises."""


def make(cfg: Config, run: base.RunInfo) -> base.Logger:
    """Appends to `recorded.jsonl` of the run directory: a line per call and per row."""

    def act(step: str, *records: object) -> None:
        with pathlib.Path(run.directory, "recorded.jsonl").open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
        if cfg.breaks == step:
            raise RuntimeError(f"no {step} today\nand a second line")

    calls = iter(range(1000))

    def write(rows: Sequence[base.Row]) -> None:
        act("write" if next(calls) >= cfg.after else "", *rows)

    act("make", {"seeds": run.seeds, "resumed_after": run.resumed_after})
    return base.Logger(
        "recorded.jsonl", write, lambda failed: act("close", "failed" if failed else "closed")
    )
