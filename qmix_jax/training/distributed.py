"""Trains jobs in several processes.

Each process trains its share of every group's members, in subfolders `.part-<process>` of the run
directories. At the end process 0 merges these parts, as if one process had trained all members. All
processes must see the same file system.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qmix_jax import config, groups
from qmix_jax.console import progress
from qmix_jax.machine import process_group
from qmix_jax.runs import metadata, outcomes, record, results, rows, storage, sweep_index
from qmix_jax.runs.jobs import Job
from qmix_jax.training import compatibility, launching


def train(jobs: Sequence[Job], options: launching.LaunchOptions) -> launching.LaunchResult:
    """Trains jobs in all processes of the distributed run, each of which returns all results.

    Raises:
      ConfigError: a setting is invalid or cannot be honoured.
      ProcessError: another process failed or was lost; the folders of the parts remain.
    """
    with process_group.join([job.config for job in jobs]) as processes:
        if processes.count == 1:
            return launching.train(launching.prepare_jobs(jobs), options)
        if any(job.config.stop != config.StopConfig() for job in jobs):
            raise config.ConfigError(
                "stop: stop rules use the mean over all members of a run, but a process does not "
                "know the evaluations of the others; leave stop.* null, or set "
                "population.distributed=false"
            )
        paths = processes.paths("directories", launching.job_directories(jobs))
        prepared = launching.prepare_jobs(
            [job._replace(directory=path) for job, path in zip(jobs, paths, strict=True)]
        )
        return _train_parts(processes, prepared, options)


def _train_parts(
    processes: process_group.ProcessGroup, jobs: Sequence[Job], options: launching.LaunchOptions
) -> launching.LaunchResult:
    config_groups = groups.split([job.config for job in jobs])
    unfinished = [
        group
        for group in config_groups
        if not all(compatibility.has_ended(jobs[i].config, jobs[i].path) for i in group.jobs)
    ]
    main = processes.is_main
    root = options.directory if main else None
    claims = {job.path: job.config.resume is not None for job in jobs} if main else {}
    with (
        storage.claimed(claims),
        sweep_index.record_jobs(root, jobs, None, options.objective),
        sweep_index.SweepIndex(root, jobs, config_groups, options.objective) as index,
    ):
        for number in range(len(config_groups)):
            index.start(number)
        report = _train_share(processes, jobs, unfinished, options)
        parts = _collect_parts(jobs, unfinished, processes.gather("trained", report))
        for i in (i for i, part in parts.items() if main and part.folders):
            _merge(jobs[i], parts[i])
        processes.gather("written", None)
    finished = [
        results.load_run(job.path, options.objective)
        if i not in parts or parts[i].folders
        else None
        for i, job in enumerate(jobs)
    ]
    if main:
        _finish_groups(index, config_groups, finished, parts)
    return launching.LaunchResult(finished, options.objective, main)


def _finish_groups(
    index: sweep_index.SweepIndex,
    config_groups: Sequence[groups.ConfigGroup],
    finished: Sequence[results.Result | None],
    parts: Mapping[int, "RunParts"],
) -> None:
    """Completes the index, and removes the parts of groups that will not be resumed."""
    for number, group in enumerate(config_groups):
        group_results = [result for i in group.jobs if (result := finished[i])]
        if len(group_results) < len(group.jobs):
            index.stop(number, "waiting")
            continue
        index.finish(number, group_results, _wall_time(group_results))
        ended = not any(result.interrupted for result in group_results)
        group_parts = [parts[i] for i in group.jobs if i in parts] if ended else []
        for folder in (folder for part in group_parts for folder in part.folders):
            shutil.rmtree(folder)


def _train_share(
    processes: process_group.ProcessGroup,
    jobs: Sequence[Job],
    unfinished: Sequence[groups.ConfigGroup],
    options: launching.LaunchOptions,
) -> dict[str, Any]:
    """Trains this process's share of the members; returns a report for the other processes."""
    share = {i: job for group in unfinished for i, job in _share(processes, jobs, group).items()}
    if processes.is_main:
        n_members = sum(job.config.seeds for job in share.values())
        n_total = progress.count(sum(job.config.seeds for job in jobs), "member")
        print(f"{processes.count} processes: this one trains {n_members} of {n_total}", flush=True)
    options = options._replace(
        directory=None, show_progress=processes.is_main, should_stop=processes.stopping
    )
    prepared = launching.prepare_jobs(list(share.values()))
    trained = launching.train(prepared, options).results if share else []
    return {
        "members": [[i, job.config.seeds] for i, job in share.items()],
        "ran": [i for i, result in zip(share, trained, strict=True) if result is not None],
    }


class RunParts(NamedTuple):
    """Parts of a run, trained by the processes.

    Attributes:
      folders: in the order of the members; none if a process did not start its part.
      members: number of members of the run's group that each process has.
    """

    folders: list[pathlib.Path]
    members: list[int]


def _collect_parts(
    jobs: Sequence[Job],
    unfinished: Sequence[groups.ConfigGroup],
    reports: Sequence[Mapping[str, Any]],
) -> dict[int, RunParts]:
    """Returns job -> parts, for runs that had not ended before."""
    shares = [dict(report["members"]) for report in reports]
    parts = {}
    for group in unfinished:
        members = [sum(share.get(i, 0) for i in group.jobs) for share in shares]
        for i in group.jobs:
            owners = [number for number, share in enumerate(shares) if i in share]
            ran = all(i in reports[number]["ran"] for number in owners)
            folders = [jobs[i].path / f"{rows.PART_PREFIX}{number}" for number in owners]
            parts[i] = RunParts(folders if ran else [], members)
    return parts


def _share(
    processes: process_group.ProcessGroup, jobs: Sequence[Job], group: groups.ConfigGroup
) -> dict[int, Job]:
    """Returns the jobs of a group with members in this process's share, and only those members."""
    members = processes.share(sum(jobs[i].config.seeds for i in group.jobs))
    share, first = {}, 0
    for i in group.jobs:
        job = jobs[i]
        begin = max(members.start - first, 0)
        seeds = min(members.stop - first, job.config.seeds) - begin
        if seeds > 0:
            population = job.config.population.model_copy(update={"distributed": False})
            values = {"seed": job.config.seed + begin, "seeds": seeds, "population": population}
            share[i] = job._replace(
                config=job.config.model_copy(update=values),
                directory=job.path / f"{rows.PART_PREFIX}{processes.index}",
            )
        first += job.config.seeds
    return share


def _merge(job: Job, parts: RunParts) -> None:
    """Writes the run directory as a single process would have."""
    part_outcomes = [record.read_outcome(folder) for folder in parts.folders]
    outcome = dataclasses.replace(  # the processes ran in parallel
        outcomes.concatenate(part_outcomes),
        train_s=max(part.train_s for part in part_outcomes),
        eval_s=max(part.eval_s for part in part_outcomes),
    )
    manifests = [metadata.read_manifest(folder) for folder in parts.folders]
    manifest = {name: value for name, value in manifests[0].items() if name != "checkpoints"} | {
        "command": job.command or record.COMMAND,
        "compile_s": max((part["compile_s"] for part in manifests), key=lambda s: s["total"]),
        "members_of_processes": parts.members,
        **metadata.config_fields(record.recorded_config(job.config)),
    }
    if resumed := max((part.get("resumed", []) for part in manifests), key=len):
        manifest["resumed"] = resumed  # a part that had already ended was not resumed
    storage.merge_metrics(job.path, parts.folders)
    metadata.write_config(job.path / "config.yaml", manifest["config"])
    record.finish(job, manifest, outcome)


def _wall_time(group_results: Sequence[results.Result]) -> outcomes.WallTime:
    """Wall time of a group: the longest of its runs."""
    manifests = [metadata.read_manifest(result.directory) for result in group_results]
    return outcomes.WallTime(
        compile_s=max(manifest["compile_s"]["total"] for manifest in manifests),
        train_s=max(manifest["reached"]["train_s"] for manifest in manifests),
        eval_s=max(manifest["reached"]["eval_s"] for manifest in manifests),
    )
