"""Schedules of a session: which members of which group train up to which update, in turn."""

from collections.abc import Sequence
from typing import NamedTuple

from qmix_jax.runs import jobs
from qmix_jax.training import halving


class Segment(NamedTuple):
    """A part of a schedule.

    Attributes:
      group: whose members train.
      span: which: from, and up to but not including.
      until: the update that they reach.
      rung: all groups are compared at this rung when the leg is done; None where they are not.
    """

    group: int
    span: tuple[int, int]
    until: int
    rung: int | None = None


def slices(group: jobs.Group, begun: Sequence[tuple[int, int]], n_together: int) -> list[Segment]:
    """All members of a group to the end: `n_together` at a time, after those that have begun."""
    spans, n_members = list(begun), len(group.seeds)
    while (first := spans[-1][1] if spans else 0) < n_members:
        spans.append((first, min(first + n_together, n_members)))
    return [Segment(0, span, group.program.plan.n_updates) for span in spans]


def rungs(groups: Sequence[jobs.Group], settings: halving.Halving) -> list[Segment]:
    """All groups from rung to rung, and to the end."""
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
