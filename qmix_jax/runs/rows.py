"""Writes the rows of a run: to the files of its directory and to its configured loggers."""

import contextlib
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from qmix_jax import components, config
from qmix_jax.loggers import base
from qmix_jax.runs import storage

PART_PREFIX = ".part-"
"""Prefix of the subfolders in which the processes of a distributed run train their members."""


def check(cfg: config.ExperimentConfig) -> None:
    """Raises: ConfigError if a logger is unavailable: missing extra, no login."""
    for name, options in _chosen_loggers(cfg):
        module = components.find("loggers", name)
        if hasattr(module, "check"):
            module.check(options)


class JobRows(contextlib.AbstractContextManager["JobRows"]):
    """Writes the rows of one run to its files and loggers.

    Attributes:
      files: `metrics.csv` and `metrics.jsonl`; their errors end the run, those of loggers do not.
    """

    def __init__(
        self, files: storage.MetricsFiles, loggers: dict[str, base.Logger], note: Callable
    ) -> None:
        """`loggers`: open ones, by name; `note` prints a line."""
        self.files = files
        self._loggers, self._note = loggers, note

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends one row per member."""
        rows = list(rows)
        self.files.write(rows)
        finite = [
            {name: value for name, value in storage.plain(row).items() if value is not None}
            for row in rows
        ]
        for name, logger in list(self._loggers.items()):
            with _disable_on_error(name, self._note) as errors:
                logger.write(finite)
            if errors:
                self._close(name, failed=True)

    def __exit__(self, *error: Any) -> None:
        try:
            self.files.__exit__(*error)
        finally:
            for name in list(self._loggers):
                self._close(name, failed=error[0] is not None)

    def _close(self, name: str, failed: bool) -> None:
        with _disable_on_error(name, self._note):
            self._loggers.pop(name).close(failed)


def open_rows(
    cfg: config.ExperimentConfig,
    path: pathlib.Path,
    names: Sequence[str],
    note: Callable[[str], None],
    sizes: Sequence[int] | None = None,
    failed: set[str] | None = None,
) -> JobRows:
    """Opens the files and loggers of a run.

    Args:
      cfg: configuration of the run.
      path: its directory, already claimed.
      names: columns of all metrics that any row will have, in order.
      note: prints a line.
      sizes: bytes of the files of a resumed run (`storage.MetricsFiles`); None for a new run.
      failed: loggers that failed to start for another run, which are skipped; those that fail now
        are added.
    Raises:
      ConfigError: the directory already has metrics.
    """
    files = storage.MetricsFiles(path, names, sizes)
    run = base.RunInfo(
        directory=path.parent if path.name.startswith(PART_PREFIX) else path,
        config=config.dump(cfg),
        seeds=tuple(range(cfg.seed, cfg.seed + cfg.seeds)),
        columns=tuple(names),
        resumed_after=None if sizes is None else _last_steps(path),
    )
    failed = set() if failed is None else failed
    loggers: dict[str, base.Logger] = {}
    for name, options in _chosen_loggers(cfg):
        if name in failed:
            continue
        with _disable_on_error(name, note) as errors:
            loggers[name] = components.find("loggers", name).make(options, run)
            note(f"logger {name}: {loggers[name].where}")
        if errors:
            failed.add(name)
    return JobRows(files, loggers, note)


def _chosen_loggers(cfg: config.ExperimentConfig) -> Iterator[tuple[str, config.Model]]:
    """Yields (module, options) of each logger."""
    for name in ("tensorboard", "wandb"):
        if (options := getattr(cfg.logger, name)) is not None:
            yield name, options
    if (custom := cfg.logger.custom) is not None:
        yield custom.name, custom.options


@contextlib.contextmanager
def _disable_on_error(name: str, note: Callable[[str], None]) -> Iterator[list[Exception]]:
    """Reports an error of a logger in one line, and in the list; the run continues."""
    errors: list[Exception] = []
    try:
        yield errors
    except Exception as error:  # of any kind: loggers may be user-defined
        errors.append(error)
        reason = (str(error).splitlines() or [""])[0]
        kind = type(error).__name__
        note(f"logger {name}: {kind}: {reason}; logger disabled, the run continues")


def _last_steps(path: pathlib.Path) -> dict[int, int]:
    """Seed -> env steps of its last row, in a resumed run."""
    rows = storage.read_metrics(path / "metrics.csv")
    steps = zip(rows["seed"].astype(int), rows["env_steps"].astype(int), strict=True)
    return {int(seed): int(step) for seed, step in sorted(steps)}
