"""Schedules of a session: which members train up to which update, in turn."""

from collections.abc import Sequence
from typing import NamedTuple

from qmix_jax.runs import jobs
from qmix_jax.training import halving


class Segment(NamedTuple):
    """A part of a schedule.

    Attributes:
      group: index of the group that trains.
      span: its members, from first to last + 1.
      until: the update to reach.
      rung: the rung at which all groups are compared after this segment, if any.
    """

    group: int
    span: tuple[int, int]
    until: int
    rung: int | None = None


def slices(group: jobs.Group, started: Sequence[tuple[int, int]], n_fit: int) -> list[Segment]:
    """Trains slices of a group to the end, in turn: those started, then `n_fit` members each."""
    spans, n_members = list(started), len(group.seeds)
    while (first := spans[-1][1] if spans else 0) < n_members:
        spans.append((first, min(first + n_fit, n_members)))
    return [Segment(0, span, group.program.plan.n_updates) for span in spans]


def rungs(groups: Sequence[jobs.Group], settings: halving.Halving) -> list[Segment]:
    """Trains all groups from rung to rung, and to the end."""
    plans = [group.program.plan for group in groups]
    ends: list[tuple[int | None, Sequence[int]]] = [
        *enumerate(zip(*(plan.rungs(settings.rungs) for plan in plans), strict=True)),
        (None, [plan.n_updates for plan in plans]),
    ]
    last = len(groups) - 1
    return [
        Segment(g, (0, len(group.seeds)), until[g], rung if g == last else None)
        for rung, until in ends
        for g, group in enumerate(groups)
    ]
