"""Checks of an environment's facts, which need nothing to run."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from qmix_jax import components
from qmix_jax.algorithms import base as algorithms
from qmix_jax.conformance.base import Check, Finding, Subject
from qmix_jax.envs import base as envs
from qmix_jax.types import Box, EnvSpec


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
    fields = {
        "agent_groups": spec.agent_groups,
        "actions.sizes": spec.actions.sizes,
        "obs_shapes": spec.obs_shapes,
    }
    for field, value in fields.items():
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
        zip(spec.agent_groups, spec.actions.sizes, spec.obs_shapes, strict=False)
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
                f"group {group} with (actions, obs_shape) {size} and {sizes[group]}",
                "equal sizes within a group",
                "put agents of other sizes into another group",
            )


def _actions(subject: Subject) -> Iterator[Finding]:
    actions = subject.spec.actions
    for index, number in enumerate(actions.sizes):
        if not _whole(number):
            yield Finding(
                f"spec.actions.sizes[{index}]",
                repr(number),
                "a whole number from 1",
                "count the agent's actions, or the numbers that an action of a Box consists of",
            )
    if isinstance(actions, Box) and not _rising((actions.low, actions.high)):
        yield Finding(
            "spec.actions",
            f"low {actions.low!r} and high {actions.high!r}",
            "two finite numbers, the lower one first",
            "give the bounds of every number of an action; actions are drawn and clipped there",
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


def _best_metrics(subject: Subject) -> Iterator[Finding]:
    spec, best = subject.spec, subject.spec.best_metrics
    by_agent = (f"return/{name}" for name in spec.agent_names)
    known = ("return", "length", *spec.metric_names, *by_agent)
    usual = EnvSpec.__dataclass_fields__["best_metrics"].default
    for index, entry in enumerate(best):
        where = f"spec.best_metrics[{index}]"
        if not isinstance(entry, tuple) or len(entry) != 2 or entry[1] not in ("max", "min"):
            yield Finding(where, repr(entry), '(metric, "max") or (metric, "min")', "write that")
        elif best != usual and entry[0] not in known:
            fix = "name a metric of an evaluation, the one to choose parameters by first"
            yield Finding(where, repr(entry[0]), f"one of {', '.join(known)}", fix)


def _scored_agents(subject: Subject) -> Iterator[Finding]:
    scored, n_agents = subject.spec.scored_agents, subject.spec.n_agents
    if scored is None:
        return
    fine = bool(scored) and len({*scored}) == len(scored)
    if not fine or not all(_whole(i, 0) and i < n_agents for i in scored):
        yield Finding(
            "spec.scored_agents",
            repr(scored),
            f"positions from 0 to {n_agents - 1}, each once, or None for all agents",
            "list the agents whose mean return counts",
        )


def _blocks(subject: Subject) -> Iterator[Finding]:
    blocks, spec = subject.spec.obs_blocks, subject.spec
    if blocks is None:
        return
    names, widths = [name for name, _ in blocks], [width for _, width in blocks]
    if not all(map(_whole, widths)) or len({*names}) < len(names):
        expected = "(name, width) of each part, every name once and widths from 1"
        yield Finding("spec.obs_blocks", repr(blocks), expected, "correct them")
    elif spec.obs_shape != (sum(widths),):
        yield Finding(
            "spec.obs_blocks",
            f"widths that add up to {sum(widths)}",
            f"the width of an observation, spec.obs_shape {spec.obs_shape}",
            "name every part of the observation vector in order, or leave obs_blocks out",
        )


def _neighbours(subject: Subject) -> Iterator[Finding]:
    near, n_agents = subject.spec.neighbours, subject.spec.n_agents
    if near is None:
        return
    dtype, shape = getattr(near, "dtype", type(near).__name__), getattr(near, "shape", "")
    if not isinstance(near, np.ndarray) or dtype != np.bool_ or shape != (n_agents, n_agents):
        yield Finding(
            "spec.neighbours",
            f"{dtype} {shape}",
            f"numpy bool ({n_agents}, {n_agents}), or None",
            "give each agent a row that is True for the agents near it; where they change, leave "
            "this None and fill TimeStep.neighbours",
        )
    elif near.diagonal().any():
        yield Finding(
            "spec.neighbours",
            "an agent that is its own neighbour, whose own action enters its mean action",
            "",
            "leave the diagonal False unless you mean it",
            fails=False,
        )


def _states(subject: Subject) -> Iterator[Finding]:
    spec = subject.spec
    if spec.n_states is None:
        return
    if not _whole(spec.n_states):
        fix = "count the states, or leave n_states out"
        yield Finding("spec.n_states", repr(spec.n_states), "a whole number from 1", fix)
    elif {spec.obs_shape, *spec.obs_shapes} != {(1,)}:
        yield Finding(
            "spec.obs_shape",
            f"{spec.obs_shape}",
            "(1,) in a game with spec.n_states",
            "let every agent observe the index of the state, as f32; networks see it one-hot",
        )


def _team_reward(subject: Subject) -> Iterator[Finding]:
    rule: Any = subject.env.team_reward
    n_agents = subject.spec.n_agents
    for leading in ((), (3,)):
        if rule is None:
            break
        rewards: Any = np.zeros((*leading, n_agents), np.float32)
        if isinstance(subject.env, envs.Env):
            rewards = jnp.asarray(rewards)
        found = np.shape(rule(rewards))
        if found != leading:
            yield Finding(
                "team_reward",
                f"shape {found} from rewards of shape {(*leading, n_agents)}",
                f"{leading}",
                "reduce the last axis alone, as envs.base.summed does",
            )
            return
    if subject.spec.zero_sum and (rule is not None or n_agents != 2):
        yield Finding(
            "spec.zero_sum",
            f"{n_agents} agents" + " and a team reward" * (rule is not None),
            "two agents that compete",
            "set team_reward=None, and zero_sum only for games of two agents",
        )


def _fitting(subject: Subject) -> Iterator[Finding]:
    """Which algorithms cannot learn here, one remark for each reason."""
    names = components.names("algorithms")
    unfit: dict[str, list[str]] = {}
    for name in names:
        needs = components.find("algorithms", name).NEEDS
        hosted = isinstance(subject.env, envs.HostEnv)
        collector = "episode" if hosted else needs.collectors[0]
        reason = algorithms.unmet(needs, subject.env, needs.replay[0], collector, has_memory=False)
        if reason is not None:
            unfit.setdefault(reason, []).append(name)
    rest = [name for name in names if not any(name in found for found in unfit.values())]
    for reason, found in unfit.items():
        yield Finding(
            "algorithms",
            f"{', '.join(found)} cannot be trained here ({reason})",
            "",
            f"algo.algorithm that fits: {', '.join(rest) or 'none'}",
            fails=False,
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
    Check("spec: best metrics", _best_metrics),
    Check("spec: scored agents", _scored_agents),
    Check("spec: parts of observations", _blocks),
    Check("spec: neighbours", _neighbours),
    Check("spec: states", _states),
    Check("team reward", _team_reward),
    Check("algorithms that fit", _fitting),
    Check("spec: the same for the same options", _same_again),
)
