"""`index.json` of a sweep: its jobs, where they are, which program each shared, and how it went."""

import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from qmix_jax import groups
from qmix_jax.runtime import group as training
from qmix_jax.runtime import provenance

NAME = "index.json"


class Index:
    """The file, rewritten whole whenever a group starts or ends."""

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        labels: Sequence[str],
        paths: Sequence[pathlib.Path],
        found: Sequence[groups.Group],
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
        self._keys = list(groups.separating_keys(found))
        self._write()

    def start(self, number: int) -> None:
        """A group begins."""
        for i in self._groups[number]["jobs"]:
            self._jobs[i]["status"] = "training"
        self._write()

    def finish(self, number: int, results: Sequence[Any], trained: training.Trained) -> None:
        """A group has ended; `results` (`api.Result`) in the order of its jobs."""
        entry = self._groups[number]
        entry |= {
            "compile_s": trained.compile_s,
            "train_s": trained.train_s,
            "eval_s": trained.eval_s,
        }
        for i, result in zip(entry["jobs"], results, strict=True):
            self._jobs[i] |= {
                "status": "interrupted" if result.interrupted else "finished",
                "objective": None if math.isnan(result.objective) else result.objective,
                "failures": list(result.failures.values()),
            }
        self._write()

    def _relative(self, path: pathlib.Path) -> str:
        if self.path is None:
            return str(path)
        return os.path.relpath(path, self.path.parent)

    def _write(self) -> None:
        if self.path is None:
            return
        whole = {"separated_by": self._keys, "groups": self._groups, "jobs": self._jobs}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        provenance.write_json(self.path, whole)
