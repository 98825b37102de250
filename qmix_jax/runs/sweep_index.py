"""`index.json` of a sweep: its jobs, where they are, which program each shared, and how it went."""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from qmix_jax import config, groups
from qmix_jax.runs import metadata, scores

NAME = "index.json"
JOBS = "sweep.json"
"""What a sweep was asked for, to go on with it."""


@contextlib.contextmanager
def asked(
    directory: str | os.PathLike[str] | None,
    jobs: Sequence[Any],
    paths: Sequence[pathlib.Path],
    halving: Sequence[Any] | None,
    objective: scores.Objective,
) -> Iterator[None]:
    """Writes `sweep.json` around the training of `jobs`, which are `api.Job`; an earlier one comes
    back where they are refused. Nothing without a directory.
    """
    if directory is None:
        yield
        return
    root = pathlib.Path(directory)
    before = (root / JOBS).read_bytes() if (root / JOBS).is_file() else None
    root.mkdir(parents=True, exist_ok=True)
    whole = {
        "objective": list(objective),
        "halving": halving,
        "jobs": [
            {
                "directory": os.path.relpath(path, root),
                "overrides": job.label,
                "command": job.command,
                "config": config.dump(job.config),
            }
            for job, path in zip(jobs, paths, strict=True)
        ],
    }
    metadata.write_json(root / JOBS, whole)
    try:
        yield
    except config.ConfigError:
        if before is not None:
            (root / JOBS).write_bytes(before)
        raise


class SweepIndex:
    """The file, rewritten whole whenever a group starts or ends."""

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        labels: Sequence[str],
        paths: Sequence[pathlib.Path],
        found: Sequence[groups.ConfigGroup],
        objective: scores.Objective = scores.Objective(),  # noqa: B008
    ) -> None:
        """Writes all jobs as `waiting`; `directory` None keeps no file."""
        self.path = None if directory is None else pathlib.Path(directory) / NAME
        group_of = {job: number for number, group in enumerate(found) for job in group.jobs}
        self._jobs: list[dict[str, Any]] = [
            {
                "job": i,
                "overrides": label,
                "directory": self._relative(path),
                "group": group_of[i],
                "status": "waiting",
            }
            for i, (label, path) in enumerate(zip(labels, paths, strict=True))
        ]
        self._groups: list[dict[str, Any]] = [{"jobs": list(group.jobs)} for group in found]
        self._objective = objective
        self._keys = list(groups.separating_keys(found))
        self._write()

    def submit(self, number: int, job_id: str, logs: Sequence[pathlib.Path]) -> None:
        """A group is in the hands of a scheduler, which calls it `job_id`."""
        self._groups[number] |= {
            "submitted_as": job_id,
            "logs": [self._relative(log) for log in logs],
        }
        self._mark(number, "submitted")

    def start(self, number: int) -> None:
        """A group begins."""
        self._mark(number, "training")

    def stop(self, number: int, status: str, error: str | None = None) -> None:
        """A group has ended without results; `error` is one line."""
        if error is not None:
            for i in self._groups[number]["jobs"]:
                self._jobs[i]["failures"] = [error]
        self._mark(number, status)

    @contextlib.contextmanager
    def watching(self) -> Iterator["SweepIndex"]:
        """Marks the groups in training as failed where an error ends the sweep."""
        try:
            yield self
        except Exception as error:
            training = {job["group"] for job in self._jobs if job["status"] == "training"}
            for number in sorted(training):
                self.stop(number, "failed", str(error).partition("\n")[0])
            raise

    def finish(self, number: int, results: Sequence[Any], trained: Any) -> None:
        """A group has ended.

        Args:
          results: `api.Result`, or what has its `objective`, `interrupted` and `failures`, in the
            order of the group's jobs.
          trained: what has `compile_s`, `train_s` and `eval_s`.
        """
        entry = self._groups[number]
        entry |= {
            "compile_s": trained.compile_s,
            "train_s": trained.train_s,
            "eval_s": trained.eval_s,
        }
        for i, result in zip(entry["jobs"], results, strict=True):
            value = result.objective
            self._jobs[i] |= {
                "status": _status(result),
                "objective": None if math.isnan(value) else value,
                "failures": list(result.failures.values()),
                "stopped": result.stopped,
            }
        self._write()

    def _mark(self, number: int, status: str) -> None:
        for i in self._groups[number]["jobs"]:
            self._jobs[i]["status"] = status
        self._write()

    def _relative(self, path: pathlib.Path) -> str:
        if self.path is None:
            return str(path)
        return os.path.relpath(path, self.path.parent)

    def _write(self) -> None:
        if self.path is None:
            return
        whole = {
            "objective": self._objective._asdict(),
            "separated_by": self._keys,
            "groups": self._groups,
            "jobs": self._jobs,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        metadata.write_json(self.path, whole)


def _status(result: Any) -> str:
    if result.interrupted:
        return "interrupted"
    return "pruned" if result.pruned else "finished"
