"""Checks of an environment's spec, which need nothing to run."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from qmix_jax.conformance.base import Check, Finding, Subject
from qmix_jax.types import EnvSpec


def _whole(value: Any, least: int = 1) -> bool:
    is_number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_number and bool(value >= least)


def _agents(subject: Subject) -> Iterator[Finding]:
    spec = subject.spec
    names = spec.agent_names
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        yield Finding(
            "spec.agent_names", repr(names), "a tuple of texts", 'write ("agent_0", "agent_1")'
        )
        return
    if not names or len({*names}) < len(names):
        yield Finding(
            "spec.agent_names",
            repr(names),
            "at least one agent, every name once",
            "name the agents",
        )
    for field in ("agent_groups", "n_actions", "obs_shapes"):
        value = getattr(spec, field)
        if not isinstance(value, tuple) or len(value) != len(names):
            yield Finding(
                f"spec.{field}",
                repr(value),
                f"a tuple with an entry for each of {len(names)} agents",
                "give every agent its own entry, in the order of agent_names",
            )


def _groups(subject: Subject) -> Iterator[Finding]:
    spec = subject.spec
    sizes: dict[int, Any] = {}
    for index, (group, *size) in enumerate(
        zip(spec.agent_groups, spec.n_actions, spec.obs_shapes, strict=False)
    ):
        if not _whole(group, 0):
            yield Finding(
                f"spec.agent_groups[{index}]",
                repr(group),
                "a whole number from 0",
                "number the kinds of agents, for example with envs.base.group_indices",
            )
        elif sizes.setdefault(group, size) != size:
            yield Finding(
                f"spec.agent_groups[{index}]",
                f"group {group} with (n_actions, obs_shape) {size} and {sizes[group]}",
                "equal sizes within a group",
                "put agents of other sizes into another group",
            )


def _actions(subject: Subject) -> Iterator[Finding]:
    for index, number in enumerate(subject.spec.n_actions):
        if not _whole(number):
            yield Finding(
                f"spec.n_actions[{index}]",
                repr(number),
                "a whole number from 1",
                "count the agent's actions",
            )


def _observations(subject: Subject) -> Iterator[Finding]:
    spec = subject.spec
    shapes = (spec.obs_shape, *spec.obs_shapes)
    for index, shape in enumerate(shapes):
        where = f"spec.obs_shapes[{index - 1}]" if index else "spec.obs_shape"
        if not isinstance(shape, tuple) or not all(map(_whole, shape)) or len(shape) not in (1, 3):
            yield Finding(
                where,
                repr(shape),
                "(O,), or (height, width, channels) for an image",
                "flatten the observation",
            )
        elif len(shape) != len(spec.obs_shape) or any(
            own > wide for own, wide in zip(shape, spec.obs_shape, strict=True)
        ):
            yield Finding(
                where,
                repr(shape),
                f"no more than spec.obs_shape {spec.obs_shape}",
                "make obs_shape the largest of obs_shapes, and pad the others with zeros",
            )


def _sizes(subject: Subject) -> Iterator[Finding]:
    for field, fix in (
        ("state_size", "give the length of TimeStep.state"),
        ("max_steps", "give the longest possible episode in env steps"),
    ):
        value = getattr(subject.spec, field)
        if not _whole(value):
            yield Finding(f"spec.{field}", repr(value), "a whole number from 1", fix)


def _metric_names(subject: Subject) -> Iterator[Finding]:
    names = subject.spec.metric_names
    if not isinstance(names, tuple) or len({*names}) < len(names):
        yield Finding("spec.metric_names", repr(names), "a tuple, every name once", "correct it")
    for name in {"return", "length"} & {*names}:
        yield Finding(
            "spec.metric_names", repr(name), "another name", "it is measured for you; leave it out"
        )


def _agent_state(subject: Subject) -> Iterator[Finding]:
    columns, spec = subject.spec.agent_state, subject.spec
    if columns is None:
        return
    if not isinstance(columns, np.ndarray) or columns.dtype != np.int32 or columns.ndim != 2:
        yield Finding(
            "spec.agent_state",
            f"{type(columns).__name__} {getattr(columns, 'dtype', '')} "
            f"{getattr(columns, 'shape', '')}",
            "numpy int32 [n_agents, F], or None",
            "build it with np.array(..., np.int32)",
        )
        return
    if len(columns) != spec.n_agents or not columns.size:
        yield Finding(
            "spec.agent_state",
            f"shape {columns.shape}",
            f"a row with at least one column for each of {spec.n_agents} agents",
            "give each agent its columns of the state, or None for all",
        )
        return
    if columns.min() < 0 or columns.max() >= spec.state_size:
        yield Finding(
            "spec.agent_state",
            f"columns {columns.min()} to {columns.max()}",
            f"columns 0 to {spec.state_size - 1} (state_size {spec.state_size})",
            "count columns of TimeStep.state from 0",
        )
    if np.unique(columns).size < columns.size:
        yield Finding(
            "spec.agent_state",
            "the same column twice",
            "columns of different agents to differ",
            "leave out columns that describe no agent in particular",
        )


def _bounds(subject: Subject) -> Iterator[Finding]:
    for field in ("obs_bounds", "state_bounds"):
        bounds = getattr(subject.spec, field)
        if bounds is None:
            yield Finding(
                f"spec.{field}",
                "not given",
                "(lowest, highest) where it is known",
                f"without it replay.{field.partition('_')[0]}_dtype=uint8 is refused",
                fails=False,
            )
        elif not _rising(bounds):
            yield Finding(
                f"spec.{field}",
                repr(bounds),
                "two finite numbers, the lower one first",
                "correct them, or leave them out",
            )


def _rising(bounds: Any) -> bool:
    return len(bounds) == 2 and bool(np.isfinite(bounds).all()) and bounds[0] < bounds[1]


def _same_again(subject: Subject) -> Iterator[Finding]:
    again = subject.remake().spec
    for field in dataclasses.fields(EnvSpec):
        one, two = getattr(subject.spec, field.name), getattr(again, field.name)
        if not np.array_equal(one, two) if isinstance(one, np.ndarray) else one != two:
            yield Finding(
                f"spec.{field.name}",
                f"{one!r}, and {two!r} from a second make(cfg)",
                "the same for the same options",
                "let make depend on its options only",
            )


CHECKS = (
    Check("spec: agents", _agents),
    Check("spec: groups", _groups),
    Check("spec: actions", _actions),
    Check("spec: observations", _observations),
    Check("spec: sizes", _sizes),
    Check("spec: metric names", _metric_names),
    Check("spec: agent_state", _agent_state),
    Check("spec: bounds", _bounds),
    Check("spec: the same for the same options", _same_again),
)
