"""Writes the rows of a run: to the files of its directory and to its configured loggers."""

import contextlib
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from qmix_jax import components, config
from qmix_jax.loggers import base
from qmix_jax.runs import storage

PART = ".part-"
"""Folders of a run directory that begin so are run directories of single processes."""


class _LoggerChoice(NamedTuple):
    """A logger of a configuration: what it is called, and what its module is called and told."""

    label: str
    module: str
    options: config.Model


def check(cfg: config.ExperimentConfig) -> None:
    """Raises: ConfigError for a logger that cannot be had: a missing extra, no login."""
    for chosen in _chosen(cfg):
        module = components.find("loggers", chosen.module)
        if hasattr(module, "check"):
            module.check(chosen.options)


class JobRows(contextlib.AbstractContextManager["JobRows"]):
    """The rows of one run on their way to everything that is open.

    Attributes:
      files: `metrics.csv` and `metrics.jsonl`; what goes wrong there goes wrong with the run.
    """

    def __init__(
        self, files: storage.MetricsFiles, open_loggers: dict[str, base.Logger], note: Callable
    ) -> None:
        """`note` shows the user a line."""
        self.files = files
        self._open, self._note = open_loggers, note

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows, one per member at a time."""
        rows = list(rows)
        self.files.write(rows)
        finite = [
            {name: value for name, value in storage.plain(row).items() if value is not None}
            for row in rows
        ]
        for label, logger in list(self._open.items()):
            with _off(label, self._note) as failure:
                logger.write(finite)
            if failure:
                self._close(label, failed=True)

    def __exit__(self, *error: Any) -> None:
        try:
            self.files.__exit__(*error)
        finally:
            for label in list(self._open):
                self._close(label, failed=error[0] is not None)

    def _close(self, label: str, failed: bool) -> None:
        with _off(label, self._note):
            self._open.pop(label).close(failed)


def open_rows(
    cfg: config.ExperimentConfig,
    path: pathlib.Path,
    names: Sequence[str],
    note: Callable[[str], None],
    sizes: Sequence[int] | None = None,
    failed: set[str] | None = None,
) -> JobRows:
    """Opens everything that the rows of one run go to.

    Args:
      cfg: of the run.
      path: its directory, claimed.
      names: columns of all metrics that any row will have, in order.
      note: shows the user a line.
      sizes: bytes of the files of a resumed run (`storage.MetricsFiles`); None for a new one.
      failed: loggers that failed to start for another run, to which those of this one are added;
        they are not tried again.
    Raises:
      ConfigError: the directory already holds metrics.
    """
    files = storage.MetricsFiles(path, names, sizes)
    run = base.RunInfo(
        directory=path.parent if path.name.startswith(PART) else path,
        config=config.dump(cfg),
        seeds=tuple(range(cfg.seed, cfg.seed + cfg.seeds)),
        columns=tuple(names),
        resumed_after=None if sizes is None else _last_steps(path),
    )
    tried = failed if failed is not None else set()
    found: dict[str, base.Logger] = {}
    for chosen in _chosen(cfg):
        if chosen.label in tried:
            continue
        with _off(chosen.label, note) as failure:
            module = components.find("loggers", chosen.module)
            found[chosen.label] = module.make(chosen.options, run)
            note(f"logger {chosen.label}: {found[chosen.label].where}")
        tried.update({chosen.label} if failure else ())
    return JobRows(files, found, note)


def _chosen(cfg: config.ExperimentConfig) -> Iterator[_LoggerChoice]:
    for label in ("tensorboard", "wandb"):
        if (options := getattr(cfg.logger, label)) is not None:
            yield _LoggerChoice(label, label, options)
    if cfg.logger.custom is not None:
        yield _LoggerChoice(
            cfg.logger.custom.name, cfg.logger.custom.name, cfg.logger.custom.options
        )


@contextlib.contextmanager
def _off(label: str, note: Callable[[str], None]) -> Iterator[list[Exception]]:
    """Whatever goes wrong with a logger is one line, and in the list; the run goes on."""
    failure: list[Exception] = []
    try:
        yield failure
    except Exception as error:  # anything at all: loggers are other people's code
        failure.append(error)
        reason = (str(error).splitlines() or [""])[0]
        kind = type(error).__name__
        note(f"logger {label}: {kind}: {reason}; it is switched off, the run goes on")


def _last_steps(path: pathlib.Path) -> dict[int, int]:
    """Seed -> env steps of its last row, of a resumed run."""
    rows = storage.read_metrics(path / "metrics.csv")
    steps = zip(rows["seed"].astype(int), rows["env_steps"].astype(int), strict=True)
    return {int(seed): int(step) for seed, step in sorted(steps)}
