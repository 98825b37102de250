"""A logger outside the package: appends one line per evaluation to a text file."""

from collections.abc import Sequence

from qmix_jax import config
from qmix_jax.loggers import base


class Config(config.Model):
    """Options of the text log."""

    metric: str = "eval/return"
    """Column to write."""


def make(cfg: Config, run: base.RunInfo) -> base.Logger:
    """Writes `log.txt` in the run directory."""
    path = run.directory / "log.txt"
    file = path.open("a", encoding="utf-8")

    def write(rows: Sequence[base.Row]) -> None:
        for row in rows:
            if cfg.metric in row:
                file.write(f"{row['env_steps']:>10,}  seed {row['seed']}  {row[cfg.metric]:.3f}\n")

    return base.Logger(where=str(path), write=write, close=lambda failed: file.close())
