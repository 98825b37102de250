"""Compiles the populations of groups and fits them into memory."""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax

from qmix_jax import config, groups, memory, population, user_code
from qmix_jax.console import progress
from qmix_jax.machine import devices
from qmix_jax.runs import checkpoint
from qmix_jax.runs.jobs import Group
from qmix_jax.training import host_stepped
from qmix_jax.types import Device

_FIX = "lower hydra.sweeper.batch or seeds, or the largest sizes that `qmix-jax plan` shows"

_COLLECTOR_NOTES = {
    "episode": "one episode each, padding counted",
    "segment": "auto-reset",
    "window": "continuing",
}


class Footprint(NamedTuple):
    """Memory that a group needs, and the memory available.

    Attributes:
      memory: bytes of one member.
      limit: bytes available to all members, on all devices together.
      devices: number of devices.
      together: number of members that fit at a time; 0 if not even one per device.
    """

    memory: memory.MemoryEstimate
    limit: int
    devices: int
    together: int


class Programs:
    """Cache of compiled populations, shared by groups with equal static keys.

    If members take turns on a device (`map`), one program serves any number of them; if they are
    batched (`vmap`), one program per size is compiled, and smaller groups are padded.
    """

    def __init__(self, sizes: Sequence[int] = ()) -> None:
        """`sizes`: numbers of batched members to compile for; a larger group gets its own size."""
        self._sizes = sorted(sizes)
        self._cache: dict[tuple[config.ExperimentConfig, int], population.Population] = {}

    def get(self, group: Group, display: progress.Progress) -> tuple[population.Population, int]:
        """Returns (population of the group, number of members that fit at a time).

        Raises: ConfigError if not even one member per device fits into memory.
        """
        cfg, n_members = group.config, len(group.seeds)
        used = devices.local(n_members, cfg.population.devices)
        batching = population.make_layout(n_members, used, cfg.population.batching).batching
        size = min((size for size in self._sizes if size >= n_members), default=n_members)
        key = groups.compiled_part(cfg), 0 if batching == "map" else size
        cached = self._cache.get(key)
        if cached is None or len(cached.layout.devices) < len(used):
            self._cache[key], n_fit = _compile(group, size, display)
            return self._cache[key], n_fit
        members = cached.rebind(group.seeds, group.hparams)
        n_fit = _n_fit(group, members.memory, used, _n_running(members.layout))
        return members, min(n_members, n_fit)


class CompiledPopulation:
    """The compiled population of a group.

    Attributes:
      group: the group.
      members: the population of all its members.
      n_fit: number of members that fit at a time.
      seconds: compile time.
    """

    def __init__(
        self, group: Group, programs: Programs, display: progress.Progress, gather: bool
    ) -> None:
        """`gather`: all members train at once, and after `select` in a smaller program.

        Raises: ConfigError if not even one member per device fits, or with `gather` not all fit.
        """
        self.group, self._programs, self._display, self._gather = group, programs, display, gather
        self.seconds = 0.0
        self.members, self.n_fit = self._get(group)
        if gather and self.n_fit < len(group.seeds):
            raise config.ConfigError(
                f"memory: successive halving keeps all members in memory, but only {self.n_fit} of "
                f"{len(group.seeds)} fit; {_FIX}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """All metric columns of `metrics.csv`."""
        trained = sorted(self.members.metric_names)
        evaluated = [f"eval/{name}" for name in self.group.program.eval_metrics]
        return tuple(evaluated + trained + ["perf/env_steps_per_s", "time_s"])

    def select(self, members: Sequence[int]) -> population.Population:
        """Returns the population of some members; with `gather`, all members of some jobs."""
        group = self.group
        if self._gather:
            owners = dict.fromkeys(group.owners[member] for member in members)
            return self._get(group._replace(jobs=[group.jobs[i] for i in owners]))[0]
        seeds, hparams = group.seeds, group.hparams
        return self.members.rebind(
            [seeds[member] for member in members], [hparams[member] for member in members]
        )

    def _get(self, group: Group) -> tuple[population.Population, int]:
        started = time.perf_counter()
        compiled = self._programs.get(group, self._display)
        self.seconds += time.perf_counter() - started
        return compiled


def check(group: Group) -> None:
    """Raises: ConfigError if the state of members, known from shapes, cannot fit into memory."""
    _n_states_that_fit(group, devices.local(len(group.seeds), group.config.population.devices))


def memory_limit(group: Group) -> int:
    """Bytes available to all members of the group together."""
    settings = group.config.population
    return settings.memory or devices.memory(devices.local(len(group.seeds), settings.devices))


def footprint(group: Group, limit: int | None) -> Footprint:
    """Estimates the memory of training: state from shapes, temporaries by compiling one member.

    `limit`: bytes; by default `population.memory`, or the memory of the devices.
    """
    cfg, n_members = group.config, len(group.seeds)
    used = devices.local(n_members, cfg.population.devices)
    limit = limit or cfg.population.memory or devices.memory(used)
    member = _compile_layout(group, population.make_layout(1, used[:1], "map"))
    needed = _add_checkpoint_copy(group, member.memory)
    layout = population.make_layout(n_members, used, cfg.population.batching)
    n_fit = needed.fit(limit, _n_running(layout))
    together = min(n_members, n_fit) if n_fit >= len(used) else 0
    return Footprint(needed, limit, len(used), together)


def _n_running(layout: population.Layout) -> int | None:
    """Number of members that run at a time; None (all of them) with `vmap`."""
    return len(layout.devices) if layout.batching == "map" else None


def _compile(
    group: Group, size: int, display: progress.Progress
) -> tuple[population.Population, int]:
    """Returns (population compiled for `size` members, number of members that train together)."""
    cfg, n_members = group.config, len(group.seeds)
    used = devices.local(size, cfg.population.devices)
    n_fit = min(size, _n_states_that_fit(group, used))
    while True:
        layout = population.make_layout(size, used, cfg.population.batching, n_fit)
        for line in _describe(group, layout):
            display.note(line)
        started = time.perf_counter()
        members = _compile_layout(group, layout)
        seconds = time.perf_counter() - started
        parts = ", ".join(f"{name} {s:.1f}" for name, s in members.compile_seconds.items())
        display.note(f"compiled in {seconds:.1f} s (in parallel: {parts})")
        n_fit = _n_fit(group, members.memory, used, _n_running(layout))
        if layout.n_members <= n_fit:
            break
        if layout.batching == "map":  # the same program serves fewer rounds
            layout = layout._replace(n_members=n_fit // layout.size * layout.size)
            break
        display.note("memory: the compiled program needs too much; compiling for fewer members")
    if layout.n_members < n_members:
        n_slices = math.ceil(n_members / layout.n_members)
        display.note(f"memory: {n_members} members in {n_slices} slices of {layout.n_members}")
    return members, min(n_members, layout.n_members)


def _compile_layout(group: Group, layout: population.Layout) -> population.Population:
    with user_code.explain_errors(group.config):
        return population.compile_programs(
            group.program,
            layout,
            group.seeds[: layout.n_members],
            group.hparams[: layout.n_members],
            group.config.precision,
            time.perf_counter,
            host_stepped.round_entry_points,
        )


def _n_states_that_fit(group: Group, used: Sequence[Device]) -> int:
    """Number of members whose state fits at a time. Raises: ConfigError if too few."""
    with user_code.explain_errors(group.config):
        state = jax.eval_shape(group.program.step.init, group.seeds[0])
    estimate = memory.MemoryEstimate(memory.parts(state), temporaries=0)
    return _n_fit(group, estimate, used, len(used))


def check_together(compiled: Sequence[CompiledPopulation]) -> None:
    """Raises: ConfigError if the members of all groups do not fit at once."""
    needed = 0
    for group_population in compiled:
        group = group_population.group
        member = _add_checkpoint_copy(group, group_population.members.memory)
        needed += len(group.seeds) * (member.persistent + member.copies)
    limit = min(memory_limit(group_population.group) for group_population in compiled)
    if needed > limit:
        raise config.ConfigError(
            f"memory: successive halving keeps the members of all {len(compiled)} programs in "
            f"memory, {progress.human(needed)}B, but {progress.human(limit)}B are available; {_FIX}"
        )


def _add_checkpoint_copy(group: Group, needed: memory.MemoryEstimate) -> memory.MemoryEstimate:
    """Adds the copy from which a checkpoint is written, if devices use host memory."""
    settings = group.config.checkpoint
    used = devices.local(1, group.config.population.devices and 1)
    if not settings.enabled or used[0].platform != "cpu":
        return needed
    replay = needed.parts["replay"] if settings.replay == "never" else 0
    return needed._replace(copies=needed.persistent - replay)


def _n_fit(
    group: Group, estimate: memory.MemoryEstimate, used: Sequence[Device], n_running: int | None
) -> int:
    """Number of members that fit at a time.

    Raises: ConfigError if fewer than one per device fit, or without slices not all fit.
    """
    needed, limit = _add_checkpoint_copy(group, estimate), memory_limit(group)
    n_fit, n_members = needed.fit(limit, n_running), len(group.seeds)
    slices, human = group.config.population.slices, progress.human
    if n_fit >= (len(used) if slices else n_members):
        return n_fit
    parts = ", ".join(f"{name} {human(size)}B" for name, size in needed.parts.items() if size)
    wanted = "one" if slices else f"{n_members} (population.slices=false)"
    running = f" and {human(needed.temporaries)}B while it trains" if needed.temporaries else ""
    copies = f", {human(needed.copies)}B for checkpoints" if needed.copies else ""
    raise config.ConfigError(
        f"memory: a member needs {human(needed.persistent)}B ({parts}){running}{copies}, one on "
        f"each of {len(used)} device(s), but {human(limit)}B are available for {wanted}; lower "
        "replay.byte_budget, replay.capacity or trainer.n_envs, store replay.obs_dtype=uint8 "
        "replay.state_dtype=uint8, set population.devices=1 or checkpoint.replay=never, or "
        "raise population.memory if it is set too low"
    )


def _describe(group: Group, layout: population.Layout) -> list[str]:
    """Returns lines for the user that describe the run in exact figures."""
    cfg, spec, plan = group.config, group.program.spec, group.program.plan
    human, count = progress.human, progress.count
    n_members = len(group.seeds)
    seeds = f"seeds {cfg.seed}..{cfg.seed + cfg.seeds - 1}" if cfg.seeds > 1 else f"seed {cfg.seed}"
    if group.heading:
        seeds = count(n_members, "member")
    padding = f", {layout.padding} inert" if layout.padding else ""
    device = layout.devices[0]
    updates = f"{plan.n_updates:,} updates of {count(plan.gradient_steps, 'gradient step')}"
    collector = _COLLECTOR_NOTES[cfg.trainer.collector]
    collector += f", {plan.burn_in} of burn-in" if plan.burn_in else ""
    return [
        f"{group.heading}{cfg.name}: {cfg.algo.name} on {spec.name}, {seeds} on "
        f"{len(layout.devices)} {device.platform} device(s) ({layout.batching}{padding})",
        f"{plan.env_steps:,} env steps per seed ({plan.env_steps_at(0):,} of them warm-up) in "
        f"{updates}",
        f"one update collects {count(cfg.trainer.n_envs, 'environment')} x {plan.window} steps "
        f"({collector})",
        f"evaluation every {plan.eval_every * plan.steps_per_update:,} env steps, "
        f"{count(cfg.eval.episodes, 'greedy episode')}; replay {plan.capacity:,} sequences = "
        f"{human(plan.replay_bytes)}B per seed",
        checkpoint.describe(cfg.checkpoint, n_members * plan.replay_bytes),
    ]
