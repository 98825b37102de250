"""A group of runs trained by several processes.

Each process trains its share of the members on its own devices, as runs of its own in folders
`.part-<process>` of the run directories. When all are done, process 0 puts the parts together, as
if one process had trained all members. Every process must see the same file system.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from qmix_jax.runtime import loop, parameters, progress, record, rows, sinks, training
from qmix_jax.runtime import team as teams

_TIMES = ("compile_s", "train_s", "eval_s")


class Part(NamedTuple):
    """What one process trained of a run: its folder, and the outcome without parameters."""

    folder: pathlib.Path
    reached: Mapping[str, Any]


def train(
    team: teams.Team,
    number: int,
    whole: training.Group,
    programs: training.Programs,
    display: progress.Progress,
    stop: Callable[[], bool],
) -> training.Trained:
    """`training.train` by all processes of a team; each gets the outcomes of all members.

    Args:
      number: of the group in this call.
    Raises:
      ConfigError: not even one member per device fits into memory.
      ProcessError: another process failed or is lost; what there is stays in the parts' folders.
    """
    if team.count == 1:
        return training.train(whole, programs, display, stop)
    share = team.share(len(whole.seeds))
    display.note(
        f"{team.count} processes: this one trains {len(share)} of "
        f"{progress.count(len(whole.seeds), 'member')}"
    )
    own = split(whole, share, f"{rows.PART}{team.index}")
    mine = whole._replace(jobs=list(own.values()), first=share.start)
    trained = None
    if own:
        trained = training.train(mine, programs, display, lambda: team.stopping(stop()))
    reports = team.gather(f"{number}/trained", _report(own, trained))
    parts = [_parts(i, job.path, reports) for i, job in enumerate(whole.jobs)]
    outcomes = [_outcome(found) for found in parts]
    members = trained and trained.members
    if team.first and members:  # the first process always has members
        for job, found, outcome in zip(whole.jobs, parts, outcomes, strict=True):
            item = record.Record(job.config, job.path, job.command, whole.program, members)
            _write(item, job.path, found, outcome, reports)
    team.gather(f"{number}/written", None)
    if team.first and not any(outcome.interrupted for outcome in outcomes):  # else they go on
        for folder in (part.folder for found in parts for part in found):
            shutil.rmtree(folder)
    times = {name: max(report[name] for report in reports) for name in _TIMES}
    return training.Trained(outcomes, members, **times)


def split(whole: training.Group, share: range, folder: str) -> dict[int, training.Job]:
    """The runs, by their positions, that have members in a share, with those members only.

    Each has a folder of its own in the run's directory, claimed.
    """
    found, first = {}, 0
    for i, job in enumerate(whole.jobs):
        begin = max(share.start - first, 0)
        seeds = min(share.stop - first, job.config.seeds) - begin
        if seeds > 0:
            members = {"seed": job.config.seed + begin, "seeds": seeds}
            path = sinks.claim(job.path / folder, resume=job.config.resume is not None)
            found[i] = job._replace(config=job.config.model_copy(update=members), path=path)
        first += job.config.seeds
    return found


def _report(own: Mapping[int, training.Job], trained: training.Trained | None) -> dict[str, Any]:
    """What the others must know of this process's part, apart from what is in its files."""
    if trained is None:
        return {"jobs": {}, "members": 0, **dict.fromkeys(_TIMES, 0.0)}
    outcomes = zip(own, trained.outcomes, strict=True)
    return {
        "jobs": {i: outcome.numbers() for i, outcome in outcomes},
        "members": sum(job.config.seeds for job in own.values()),
        **{name: getattr(trained, name) for name in _TIMES},
    }


def _parts(i: int, path: pathlib.Path, reports: Sequence[Mapping[str, Any]]) -> list[Part]:
    """The parts of run `i`, in the order of its members."""
    return [
        Part(path / f"{rows.PART}{process}", report["jobs"][str(i)])
        for process, report in enumerate(reports)
        if str(i) in report["jobs"]
    ]


def _outcome(parts: Sequence[Part]) -> loop.Outcome:
    """The outcome of a run from its parts: the processes worked side by side."""
    outcomes = [
        loop.Outcome.made_of(
            part.reached,
            parameters.load_parameters(part.folder / "parameters_final.npz"),
            parameters.load_parameters(part.folder / "parameters_best.npz"),
        )
        for part in parts
    ]
    return dataclasses.replace(
        loop.join(outcomes),
        train_s=max(outcome.train_s for outcome in outcomes),
        eval_s=max(outcome.eval_s for outcome in outcomes),
    )


def _write(
    item: record.Record,
    path: pathlib.Path,
    parts: Sequence[Part],
    outcome: loop.Outcome,
    reports: Sequence[Mapping[str, Any]],
) -> None:
    """Writes the run directory as `training.train` does."""
    sinks.merge(path, [part.folder for part in parts])
    begun = json.loads((parts[0].folder / "manifest.json").read_text(encoding="utf-8"))
    members = [report["members"] for report in reports]
    item.begin(
        max(report["compile_s"] for report in reports),
        {
            "started": begun["started"],
            "members_of_processes": members,
            **{name: begun[name] for name in ("resumed",) if name in begun},
        },
    )
    item.finish(outcome)
