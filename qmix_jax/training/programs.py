"""Compiled populations of groups, and the memory that they take."""

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

_KNOBS = "lower hydra.sweeper.batch or seeds, or what `qmix-jax plan` shows to be large"

_COLLECTED = {
    "episode": "one episode each, padding counted",
    "segment": "auto-reset",
    "window": "running on",
}


class Footprint(NamedTuple):
    """What a group needs, and what there is.

    Attributes:
      memory: bytes of one member.
      limit: bytes that members may take on all devices together.
      devices: number of devices.
      together: members that fit at a time, at most as many as there are; 0 if not one per device.
    """

    memory: memory.MemoryEstimate
    limit: int
    devices: int
    together: int


class Programs:
    """Compiled populations, kept for groups that are alike in everything static.

    Where members take turns on a device (`map`), one serves any number of them; where they are
    batched (`vmap`), one for each of a few sizes is compiled, and smaller groups are padded.
    """

    def __init__(self, sizes: Sequence[int] = ()) -> None:
        """`sizes`: numbers of batched members to compile for; other groups get their own size."""
        self._sizes = sorted(sizes)
        self._kept: dict[tuple[config.ExperimentConfig, int], population.Population] = {}

    def get(self, group: Group, display: progress.Progress) -> tuple[population.Population, int]:
        """(population of the group, members that fit at a time).

        Raises:
          ConfigError: not even one member per device fits into memory.
        """
        cfg, n_members = group.config, len(group.seeds)
        used = devices.local(n_members, cfg.population.devices)
        batching = population.make_layout(n_members, used, cfg.population.batching).batching
        size = min((size for size in self._sizes if size >= n_members), default=n_members)
        key = groups.compiled_part(cfg), 0 if batching == "map" else size
        kept = self._kept.get(key)
        if kept is None or len(kept.layout.devices) < len(used):
            self._kept[key], together = _compile(group, size, display)
            return self._kept[key], together
        members = kept.rebind(group.seeds, group.hparams)
        needed = _needs(group, members.memory)
        fit = needed.fit(memory_limit(group), _running(members.layout))
        _check_fit(group, needed, used, fit)
        return members, min(n_members, fit)


class CompiledPopulation:
    """The compiled population of a group.

    Attributes:
      group: whose.
      members: the population of all its members.
      n_together: how many of them fit at a time.
      seconds: spent compiling.
    """

    def __init__(
        self, group: Group, kept: Programs, display: progress.Progress, gather: bool
    ) -> None:
        """`gather`: all members train at once, and fewer of them in a smaller program.

        Raises: ConfigError where not even one member per device fits, or with `gather` not all.
        """
        self.group, self._kept, self._display, self._gather = group, kept, display, gather
        self.seconds = 0.0
        self.members, self.n_together = self._get(group)
        if gather and self.n_together < len(group.seeds):
            raise config.ConfigError(
                f"memory: successive halving keeps all members, but of {len(group.seeds)} only "
                f"{self.n_together} fit; {_KNOBS}"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """All metric columns of `metrics.csv`."""
        trained = sorted(self.members.metric_names)
        evaluated = [f"eval/{name}" for name in self.group.program.eval_metrics]
        return tuple(evaluated + trained + ["perf/env_steps_per_s", "time_s"])

    def of(self, members: Sequence[int]) -> population.Population:
        """The population of some members; with `gather` they are all those of their jobs."""
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
        found = self._kept.get(group, self._display)
        self.seconds += time.perf_counter() - started
        return found


def check(group: Group) -> None:
    """Raises: ConfigError if what members keep, known from shapes alone, cannot fit into memory."""
    _fitting(group, devices.local(len(group.seeds), group.config.population.devices))


def memory_limit(group: Group) -> int:
    """Bytes that the group's members may take together."""
    chosen = group.config.population
    return chosen.memory or devices.memory(devices.local(len(group.seeds), chosen.devices))


def footprint(group: Group, limit: int | None) -> Footprint:
    """What training would need: what members keep from shapes alone, the temporaries by compiling
    one member.

    Args:
      limit: bytes; None takes `population.memory`, or what the devices have.
    """
    cfg, n_members = group.config, len(group.seeds)
    used = devices.local(n_members, cfg.population.devices)
    limit = limit or cfg.population.memory or devices.memory(used)
    one = population.make_layout(1, used[:1], "map")
    needed = _needs(group, _compiled(group, one).memory)
    places = population.make_layout(n_members, used, cfg.population.batching)
    fits = needed.fit(limit, _running(places))
    together = min(n_members, fits) if fits >= len(used) else 0
    return Footprint(needed, limit, len(used), together)


def _running(places: population.Layout) -> int | None:
    """Members that run at a time: with `vmap` all that are alive."""
    return len(places.devices) if places.batching == "map" else None


def _compile(
    group: Group, size: int, display: progress.Progress
) -> tuple[population.Population, int]:
    """(compiled for `size` members, members that train together)."""
    cfg, seeds = group.config, group.seeds
    used = devices.local(size, cfg.population.devices)
    limit = memory_limit(group)
    most = min(size, _fitting(group, used))
    while True:
        places = population.make_layout(size, used, cfg.population.batching, most)
        members = _compile_layout(group, places, display)
        needed = _needs(group, members.memory)
        most = needed.fit(limit, _running(places))
        if places.n_members <= most:
            break
        _check_fit(group, needed, used, most)
        if places.batching == "map":  # the same program serves fewer rounds
            places = places._replace(n_members=most // places.size * places.size)
            break
        display.note("memory: the compiled program needs too much; compiling it for fewer members")
    if places.n_members < len(seeds):
        slices = math.ceil(len(seeds) / places.n_members)
        display.note(f"memory: {len(seeds)} members in {slices} slices of {places.n_members}")
    return members, min(len(seeds), places.n_members)


def _compile_layout(
    group: Group, places: population.Layout, display: progress.Progress
) -> population.Population:
    for line in start_lines(group, places):
        display.note(line)
    started = time.perf_counter()
    members = _compiled(group, places)
    seconds = time.perf_counter() - started
    parts = ", ".join(f"{name} {s:.1f}" for name, s in members.compile_seconds.items())
    display.note(f"compiled in {seconds:.1f} s (side by side: {parts})")
    return members


def _compiled(group: Group, places: population.Layout) -> population.Population:
    with user_code.explain_errors(group.config):
        return population.compile_programs(
            group.program,
            places,
            group.seeds[: places.n_members],
            group.hparams[: places.n_members],
            group.config.precision,
            time.perf_counter,
            host_stepped.kit_of(group.program),
        )


def _fitting(group: Group, used: Sequence[Device]) -> int:
    """Members whose kept bytes fit at a time."""
    with user_code.explain_errors(group.config):
        state = jax.eval_shape(group.program.step.init, group.seeds[0])
    needed = _needs(group, memory.MemoryEstimate(memory.parts(state), temporaries=0))
    fit = needed.fit(memory_limit(group), len(used))
    _check_fit(group, needed, used, fit)
    return fit


def check_together(compiled: Sequence[CompiledPopulation]) -> None:
    """Raises: ConfigError where the members of all groups do not fit at once."""
    needed = 0
    for one in compiled:
        memory_of_one = _needs(one.group, one.members.memory)
        needed += len(one.group.seeds) * (memory_of_one.persistent + memory_of_one.copies)
    limit = min(memory_limit(one.group) for one in compiled)
    if needed > limit:
        raise config.ConfigError(
            f"memory: successive halving keeps the members of all {len(compiled)} programs at "
            f"once, {progress.human(needed)}B, but there are {progress.human(limit)}B; {_KNOBS}"
        )


def _needs(group: Group, needed: memory.MemoryEstimate) -> memory.MemoryEstimate:
    """With the copy that a checkpoint is written from; accelerators have it on their host."""
    settings = group.config.checkpoint
    used = devices.local(1, group.config.population.devices and 1)
    if not settings.enabled or used[0].platform != "cpu":
        return needed
    replay = needed.parts["replay"] if settings.replay == "never" else 0
    return needed._replace(copies=needed.persistent - replay)


def _check_fit(
    group: Group, needed: memory.MemoryEstimate, used: Sequence[Device], most: int
) -> None:
    """Raises: ConfigError if fewer members fit than one per device, or than all where slices are
    off.
    """
    members, slices = len(group.seeds), group.config.population.slices
    if most >= (len(used) if slices else members):
        return
    human, limit = progress.human, memory_limit(group)
    parts = ", ".join(f"{name} {human(size)}B" for name, size in needed.parts.items() if size)
    wanted = "one" if slices else f"{members} (population.slices=false)"
    running = f" and {human(needed.temporaries)}B while it trains" if needed.temporaries else ""
    copies = f", {human(needed.copies)}B for checkpoints" if needed.copies else ""
    raise config.ConfigError(
        f"memory: a member takes {human(needed.persistent)}B ({parts}){running}{copies}, one on "
        f"each of {len(used)} device(s), but there are {human(limit)}B for {wanted}; lower "
        "replay.byte_budget, replay.capacity or trainer.n_envs, store replay.obs_dtype=uint8 "
        "replay.state_dtype=uint8, set population.devices=1 or checkpoint.replay=never, or "
        "raise population.memory if it is set too low"
    )


def start_lines(group: Group, places: population.Layout) -> list[str]:
    """What the run will be, in exact figures."""
    cfg, spec, plan = group.config, group.program.spec, group.program.plan
    human, count = progress.human, progress.count
    n_members = len(group.seeds)
    seeds = f"seeds {cfg.seed}..{cfg.seed + cfg.seeds - 1}" if cfg.seeds > 1 else f"seed {cfg.seed}"
    if group.heading:
        seeds = count(n_members, "member")
    padding = f", {places.padding} inert" if places.padding else ""
    device = places.devices[0]
    updates = f"{plan.n_updates:,} updates of {count(plan.gradient_steps, 'gradient step')}"
    collector = _COLLECTED[cfg.trainer.collector]
    collector += f", {plan.burn_in} of burn-in" if plan.burn_in else ""
    return [
        f"{group.heading}{cfg.name}: {cfg.algo.name} on {spec.name}, {seeds} on "
        f"{len(places.devices)} {device.platform} device(s) ({places.batching}{padding})",
        f"{plan.env_steps:,} env steps per seed ({plan.env_steps_at(0):,} of them warm-up) in "
        f"{updates}",
        f"one update collects {count(cfg.trainer.n_envs, 'environment')} x {plan.window} steps "
        f"({collector})",
        f"evaluation every {plan.eval_every * plan.steps_per_update:,} env steps, "
        f"{count(cfg.eval.episodes, 'greedy episode')}; replay {plan.capacity:,} sequences = "
        f"{human(plan.replay_bytes)}B per seed",
        checkpoint.cost(cfg.checkpoint, n_members * plan.replay_bytes),
    ]
