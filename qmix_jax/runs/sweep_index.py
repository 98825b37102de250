"""Files of a sweep: `sweep.json` (its jobs, to resume it) and `index.json` (progress, results)."""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from qmix_jax import config, groups
from qmix_jax.runs import jobs as run_jobs
from qmix_jax.runs import metadata, outcomes, scores

INDEX_FILE = "index.json"
SWEEP_FILE = "sweep.json"


@contextlib.contextmanager
def record_jobs(
    directory: str | os.PathLike[str] | None,
    jobs: Sequence[run_jobs.Job],
    halving: Sequence[Any] | None,
    objective: scores.Objective,
) -> Iterator[None]:
    """Writes `sweep.json` before the jobs train; on a `ConfigError`, restores an earlier one.

    Does nothing without a directory.
    """
    if directory is None:
        yield
        return
    root = pathlib.Path(directory)
    path = root / SWEEP_FILE
    previous = path.read_bytes() if path.is_file() else None
    root.mkdir(parents=True, exist_ok=True)
    sweep = {
        "objective": list(objective),
        "halving": halving,
        "jobs": [
            {
                "directory": os.path.relpath(job.path, root),
                "overrides": job.label,
                "command": job.command,
                "config": config.dump(job.config),
            }
            for job in jobs
        ],
    }
    metadata.write_json(path, sweep)
    try:
        yield
    except config.ConfigError:
        if previous is not None:
            path.write_bytes(previous)
        raise


class SweepIndex(contextlib.AbstractContextManager["SweepIndex"]):
    """Writes `index.json` again whenever a group changes: jobs, directories, groups, results.

    As a context manager it marks the groups in training as failed if an error ends the sweep.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        jobs: Sequence[run_jobs.Job],
        config_groups: Sequence[groups.ConfigGroup],
        objective: scores.Objective = scores.Objective(),  # noqa: B008
    ) -> None:
        """Writes all jobs as `waiting`; without a directory, the class never writes anything."""
        self.path = None if directory is None else pathlib.Path(directory) / INDEX_FILE
        group_of = {job: number for number, group in enumerate(config_groups) for job in group.jobs}
        self._jobs: list[dict[str, Any]] = [
            {
                "job": i,
                "overrides": job.label,
                "directory": self._relative(job.path),
                "group": group_of[i],
                "status": "waiting",
            }
            for i, job in enumerate(jobs)
        ]
        self._groups: list[dict[str, Any]] = [{"jobs": list(group.jobs)} for group in config_groups]
        self._objective = objective
        self._keys = list(groups.separating_keys(config_groups))
        self._write()

    def submit(self, number: int, job_id: str, logs: Sequence[pathlib.Path]) -> None:
        """Marks a group as submitted to a scheduler as `job_id`."""
        self._groups[number] |= {
            "submitted_as": job_id,
            "logs": [self._relative(log) for log in logs],
        }
        self._mark(number, "submitted")

    def start(self, number: int) -> None:
        """Marks a group as training."""
        self._mark(number, "training")

    def stop(self, number: int, status: str, error: str | None = None) -> None:
        """Marks a group that ended without results; `error` is one line."""
        if error is not None:
            for i in self._groups[number]["jobs"]:
                self._jobs[i]["failures"] = [error]
        self._mark(number, status)

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception):
            return
        training = {job["group"] for job in self._jobs if job["status"] == "training"}
        for number in sorted(training):
            self.stop(number, "failed", str(error).partition("\n")[0])

    def finish(self, number: int, results: Sequence[Any], seconds: Any) -> None:
        """Writes the results of a group.

        Args:
          results: one per job of the group, with the fields `objective`, `interrupted`,
            `failures`, `pruned` and `stopped` of `Result`.
          seconds: with the fields of `outcomes.WallTime`.
        """
        group = self._groups[number]
        group |= {name: getattr(seconds, name) for name in outcomes.WallTime._fields}
        for i, result in zip(group["jobs"], results, strict=True):
            ended = "pruned" if result.pruned else "finished"
            self._jobs[i] |= {
                "status": "interrupted" if result.interrupted else ended,
                "objective": None if math.isnan(result.objective) else result.objective,
                "failures": list(result.failures.values()),
                "stopped": result.stopped,
            }
        self._write()

    def _mark(self, number: int, status: str) -> None:
        for i in self._groups[number]["jobs"]:
            self._jobs[i]["status"] = status
        self._write()

    def _relative(self, path: pathlib.Path) -> str:
        return str(path) if self.path is None else os.path.relpath(path, self.path.parent)

    def _write(self) -> None:
        if self.path is None:
            return
        index = {
            "objective": self._objective._asdict(),
            "separated_by": self._keys,
            "groups": self._groups,
            "jobs": self._jobs,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        metadata.write_json(self.path, index)
