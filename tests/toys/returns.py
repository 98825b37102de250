"""A logger outside the package: writes one metric to a tab-separated file."""

from collections.abc import Sequence

from qmix_jax import config
from qmix_jax.loggers import base


class Config(config.Model):
    """Options of the logger."""

    metric: str = "eval/return"
    """Metric to write."""


def make(cfg: Config, run: base.RunInfo) -> base.Logger:
    """Appends a line per evaluation and seed: env steps, seed, value."""
    folder = run.directory / "returns"
    folder.mkdir(exist_ok=True)
    file = (folder / "returns.tsv").open("a")

    def write(rows: Sequence[base.Row]) -> None:
        for row in rows:
            if cfg.metric in row:
                file.write(f"{row['env_steps']}\t{row['seed']}\t{row[cfg.metric]}\n")

    return base.Logger(where=file.name, write=write, close=lambda failed: file.close())
