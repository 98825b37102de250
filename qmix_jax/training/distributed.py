"""Jobs trained by several processes.

Each process trains its share of every group's members, as runs of its own in folders
`.part-<process>` of the run directories. When all are done, process 0 merges the parts, as if one
process had trained all members. Every process must see the same file system.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qmix_jax import config, groups
from qmix_jax.console import progress
from qmix_jax.machine import process_group as teams
from qmix_jax.runs import jobs, metadata, outcomes, record, results, rows, storage, sweep_index
from qmix_jax.training import compatibility, launching


def train(given: Sequence[jobs.Job], how: launching.LaunchOptions) -> launching.LaunchResult:
    """Trains jobs: by this process, or with `population.distributed` by all of them, each of which
    gets all results.

    Raises:
      ConfigError: a setting that cannot be honoured.
      ProcessError: another process failed or is lost; what there is stays in the parts' folders.
    """
    with teams.join([job.config for job in given]) as team:
        if team.count == 1:
            return launching.train(launching.settle(given), how)
        if any(job.config.stop != config.StopConfig() for job in given):
            raise config.ConfigError(
                "stop: the mean over a run's members decides, and processes do not know each "
                "other's evaluations; leave stop.* null, or set population.distributed=false"
            )
        paths = team.paths("directories", launching.directories(given))
        settled = launching.settle(
            [job._replace(directory=path) for job, path in zip(given, paths, strict=True)]
        )
        return _train_together(team, settled, how)


def _train_together(
    team: teams.ProcessGroup, settled: Sequence[jobs.Job], how: launching.LaunchOptions
) -> launching.LaunchResult:
    found = groups.split([job.config for job in settled])
    left = [
        one
        for one in found
        if not all(compatibility.ended(settled[i].config, settled[i].path) for i in one.jobs)
    ]
    own = {i: part for one in left for i, part in _share(team, settled, one.jobs).items()}
    claims = {job.path: job.config.resume is not None for job in settled} if team.first else {}
    root, paths = how.directory if team.first else None, [job.path for job in settled]
    labels, asked = [job.label for job in settled], (settled, paths, None, how.objective)
    with (
        storage.claimed(claims),
        sweep_index.asked(root, *asked),
        sweep_index.SweepIndex(root, labels, paths, found, how.objective).watching() as index,
    ):
        for number in range(len(found)):
            index.start(number)
        reports = team.gather("trained", _train_own(team, list(own.items()), settled, how))
        parts = _parts(settled, left, reports)
        for i in (i for i, part in parts.items() if part.folders and team.first):
            _merge(settled[i], parts[i])
        team.gather("written", None)
    done = [
        None if i in parts and not parts[i].folders else results.load_run(path, how.objective)
        for i, path in enumerate(paths)
    ]
    if team.first:
        _close(index, found, done, parts)
    return launching.LaunchResult(done, how.objective, team.first)


def _close(
    index: sweep_index.SweepIndex,
    found: Sequence[groups.ConfigGroup],
    done: Sequence[results.Result | None],
    parts: Mapping[int, "ProcessShare"],
) -> None:
    """Completes the index, and removes the parts of what is complete; others resume from theirs."""
    for number, one in enumerate(found):
        reached = [result for result in (done[i] for i in one.jobs) if result]
        if len(reached) < len(one.jobs):
            index.stop(number, "waiting")
            continue
        index.finish(number, reached, _seconds([result.directory for result in reached]))
        complete = not any(result.interrupted for result in reached)
        for folder in (f for i in one.jobs if i in parts and complete for f in parts[i].folders):
            shutil.rmtree(folder)


def _train_own(
    team: teams.ProcessGroup,
    own: Sequence[tuple[int, jobs.Job]],
    settled: Sequence[jobs.Job],
    how: launching.LaunchOptions,
) -> dict[str, Any]:
    """Trains this process's part of the jobs; what the others must know of it."""
    n_own, n_all = (
        sum(job.config.seeds for job in some) for some in ([job for _, job in own], settled)
    )
    if team.first:
        of = progress.count(n_all, "member")
        print(f"{team.count} processes: this one trains {n_own} of {of}", flush=True)
    mine = how._replace(directory=None, shown=team.first, stopping=team.stopping)
    parts = launching.settle([job for _, job in own])
    trained = launching.train(parts, mine).results if own else []
    return {
        "members": [[i, job.config.seeds] for i, job in own],
        "ran": [i for (i, _), result in zip(own, trained, strict=True) if result is not None],
    }


class ProcessShare(NamedTuple):
    """What the processes trained of a run.

    Attributes:
      folders: of its members, in their order; none where a process did not begin.
      members: how many of its group each process has.
    """

    folders: list[pathlib.Path]
    members: list[int]


def _parts(
    settled: Sequence[jobs.Job],
    left: Sequence[groups.ConfigGroup],
    reports: Sequence[Mapping[str, Any]],
) -> dict[int, ProcessShare]:
    """What was trained of each run that had not ended before."""
    shares = [dict(report["members"]) for report in reports]
    found = {}
    for one in left:
        members = [sum(share.get(i, 0) for i in one.jobs) for share in shares]
        for i in one.jobs:
            owners = [number for number, share in enumerate(shares) if i in share]
            ran = all(i in reports[number]["ran"] for number in owners)
            folders = [settled[i].path / f"{rows.PART}{number}" for number in owners]
            found[i] = ProcessShare(folders if ran else [], members)
    return found


def _share(
    team: teams.ProcessGroup, settled: Sequence[jobs.Job], chosen: Sequence[int]
) -> dict[int, jobs.Job]:
    """The jobs of a group that have members in this process's share, with those members only."""
    share = team.share(sum(settled[i].config.seeds for i in chosen))
    found, first = {}, 0
    for i in chosen:
        job = settled[i]
        begin = max(share.start - first, 0)
        seeds = min(share.stop - first, job.config.seeds) - begin
        if seeds > 0:
            alone = job.config.population.model_copy(update={"distributed": False})
            members = {"seed": job.config.seed + begin, "seeds": seeds, "population": alone}
            cfg = job.config.model_copy(update=members)
            found[i] = job._replace(config=cfg, directory=job.path / f"{rows.PART}{team.index}")
        first += job.config.seeds
    return found


def _merge(job: jobs.Job, part: ProcessShare) -> None:
    """Writes the run directory as one process would have."""
    reached = [record.read_outcome(folder) for folder in part.folders]
    together = dataclasses.replace(  # the processes worked side by side
        outcomes.join(reached),
        train_s=max(outcome.train_s for outcome in reached),
        eval_s=max(outcome.eval_s for outcome in reached),
    )
    begun = [metadata.read_manifest(folder) for folder in part.folders]
    manifest = {name: value for name, value in begun[0].items() if name != "checkpoints"} | {
        "command": job.command or record.COMMAND,
        "compile_s": max((one["compile_s"] for one in begun), key=lambda took: took["total"]),
        "members_of_processes": part.members,
        **metadata.of_config(record.settings(job.config)),
    }
    if resumed := max((one.get("resumed", []) for one in begun), key=len):
        manifest["resumed"] = resumed  # a process that was done already resumed nothing
    storage.merge(job.path, part.folders)
    metadata.write_config(job.path / "config.yaml", manifest["config"])
    record.finish(job, manifest, together)


def _seconds(paths: Sequence[pathlib.Path]) -> outcomes.WallTime:
    """Of a group, the longest of its runs."""
    found = [metadata.read_manifest(path) for path in paths]
    return outcomes.WallTime(
        max(one["compile_s"]["total"] for one in found),
        *(max(one["reached"][name] for one in found) for name in ("train_s", "eval_s")),
    )
