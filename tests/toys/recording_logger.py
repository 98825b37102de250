"""A logger of one's own: keeps what it gets in a file, or breaks where it is told to."""

import json
import pathlib
from collections.abc import Sequence
from typing import Literal

from qmix_jax import config
from qmix_jax.loggers import base


class Config(config.Model):
    """Options."""

    breaks: Literal["make", "write", "close"] | None = None
    """Where it raises."""
    after: config.Count = 0
    """Calls of `write` that go well."""


def make(cfg: Config, run: base.RunInfo) -> base.Logger:
    """Appends to `recorded.jsonl` of the run directory: a line for itself, and one per row."""

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
