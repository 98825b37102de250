"""Checks of the spec and the team reward, without running the environment."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from qmix_jax import components
from qmix_jax.algorithms import base as algorithms
from qmix_jax.conformance.base import Check, Finding, Subject, note
from qmix_jax.envs import base as envs
from qmix_jax.types import Box, EnvSpec


def _is_integer(value: Any, minimum: int = 1) -> bool:
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_integer and bool(value >= minimum)


def _is_interval(bounds: Any) -> bool:
    return len(bounds) == 2 and bool(np.isfinite(bounds).all()) and bounds[0] < bounds[1]


def _agents(subject: Subject) -> Iterator[Finding]:
    spec, names = subject.spec, subject.spec.agent_names
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        fix = 'write ("agent_0", "agent_1")'
        yield Finding("spec.agent_names", repr(names), "a tuple of strings", fix)
        return
    if not names or len({*names}) < len(names):
        expected = "one or more unique names"
        yield Finding("spec.agent_names", repr(names), expected, "give every agent its own name")
    for field, value in {
        "agent_groups": spec.agent_groups,
        "actions.sizes": spec.actions.sizes,
        "obs_shapes": spec.obs_shapes,
    }.items():
        if not isinstance(value, tuple) or len(value) != len(names):
            expected = f"a tuple with one entry for each of {len(names)} agents"
            fix = "list one entry per agent, in the order of agent_names"
            yield Finding(f"spec.{field}", repr(value), expected, fix)


def _groups(subject: Subject) -> Iterator[Finding]:
    spec = subject.spec
    sizes: dict[int, Any] = {}
    for index, (group, *size) in enumerate(
        zip(spec.agent_groups, spec.actions.sizes, spec.obs_shapes, strict=False)
    ):
        where = f"spec.agent_groups[{index}]"
        if not _is_integer(group, 0):
            fix = "number the groups, for example with envs.base.group_indices"
            yield Finding(where, repr(group), "an integer >= 0", fix)
        elif sizes.setdefault(group, size) != size:
            got = f"group {group} with (actions, obs_shape) {size} and {sizes[group]}"
            fix = "put agents of different sizes into different groups"
            yield Finding(where, got, "equal sizes within a group", fix)


def _actions(subject: Subject) -> Iterator[Finding]:
    actions = subject.spec.actions
    for index, size in enumerate(actions.sizes):
        if not _is_integer(size):
            fix = "give the agent's number of actions, or of dimensions of a Box"
            yield Finding(f"spec.actions.sizes[{index}]", repr(size), "an integer >= 1", fix)
    if isinstance(actions, Box) and not _is_interval((actions.low, actions.high)):
        got = f"low {actions.low!r} and high {actions.high!r}"
        fix = "give the bounds of every dimension; actions are sampled and clipped within them"
        yield Finding("spec.actions", got, "two finite numbers, low < high", fix)


def _observations(subject: Subject) -> Iterator[Finding]:
    spec = subject.spec
    for index, shape in enumerate((spec.obs_shape, *spec.obs_shapes)):
        where = f"spec.obs_shapes[{index - 1}]" if index else "spec.obs_shape"
        sizes_fit = isinstance(shape, tuple) and all(map(_is_integer, shape))
        if not sizes_fit or len(shape) not in (1, 3):
            expected = "(O,), or (height, width, channels) for an image"
            yield Finding(where, repr(shape), expected, "flatten the observation")
        elif len(shape) != len(spec.obs_shape) or any(
            size > padded for size, padded in zip(shape, spec.obs_shape, strict=True)
        ):
            expected = f"no more than spec.obs_shape {spec.obs_shape}"
            fix = "make obs_shape the largest of obs_shapes, and pad observations with zeros"
            yield Finding(where, repr(shape), expected, fix)


def _sizes(subject: Subject) -> Iterator[Finding]:
    for field, fix in (
        ("state_size", "give the length of TimeStep.state"),
        ("max_steps", "give the length of the longest possible episode in env steps"),
    ):
        value = getattr(subject.spec, field)
        if not _is_integer(value):
            yield Finding(f"spec.{field}", repr(value), "an integer >= 1", fix)


def _metric_names(subject: Subject) -> Iterator[Finding]:
    where, names = "spec.metric_names", subject.spec.metric_names
    if not isinstance(names, tuple) or len({*names}) < len(names):
        yield Finding(where, repr(names), "a tuple of unique names", "remove duplicates")
    for name in {"return", "length"} & {*names}:
        yield Finding(where, repr(name), "another name", "remove it; it is always measured")


def _best_metrics(subject: Subject) -> Iterator[Finding]:
    spec = subject.spec
    returns = (f"return/{name}" for name in spec.agent_names)
    known = ("return", "length", *spec.metric_names, *returns)
    defaults = {field.name: field.default for field in dataclasses.fields(EnvSpec)}
    is_default = spec.best_metrics == defaults["best_metrics"]
    for index, entry in enumerate(spec.best_metrics):
        where = f"spec.best_metrics[{index}]"
        if not isinstance(entry, tuple) or len(entry) != 2 or entry[1] not in ("max", "min"):
            expected = '(metric, "max") or (metric, "min")'
            yield Finding(where, repr(entry), expected, "write such a pair")
        elif not is_default and entry[0] not in known:
            fix = "name an evaluation metric; the first entry ranks parameters first"
            yield Finding(where, repr(entry[0]), f"one of {', '.join(known)}", fix)


def _scored_agents(subject: Subject) -> Iterator[Finding]:
    scored, n_agents = subject.spec.scored_agents, subject.spec.n_agents
    if scored is None:
        return
    unique = bool(scored) and len({*scored}) == len(scored)
    if not unique or not all(_is_integer(i, 0) and i < n_agents for i in scored):
        expected = f"unique indices from 0 to {n_agents - 1}, or None for all agents"
        fix = "list the agents whose mean return is the score"
        yield Finding("spec.scored_agents", repr(scored), expected, fix)


def _blocks(subject: Subject) -> Iterator[Finding]:
    where, blocks, spec = "spec.obs_blocks", subject.spec.obs_blocks, subject.spec
    if blocks is None:
        return
    names, widths = [name for name, _ in blocks], [width for _, width in blocks]
    if not all(map(_is_integer, widths)) or len({*names}) < len(names):
        expected = "(name, width) of each block, with unique names and widths >= 1"
        yield Finding(where, repr(blocks), expected, "correct them")
    elif spec.obs_shape != (sum(widths),):
        got, expected = f"widths that sum to {sum(widths)}", f"spec.obs_shape {spec.obs_shape}"
        fix = "list every block of the observation in order, or leave obs_blocks out"
        yield Finding(where, got, expected, fix)


def _neighbours(subject: Subject) -> Iterator[Finding]:
    where, neighbours, n_agents = "spec.neighbours", subject.spec.neighbours, subject.spec.n_agents
    if neighbours is None:
        return
    dtype = getattr(neighbours, "dtype", type(neighbours).__name__)
    shape = getattr(neighbours, "shape", "")
    if not isinstance(neighbours, np.ndarray) or (dtype, shape) != (np.bool_, (n_agents, n_agents)):
        expected = f"numpy bool ({n_agents}, {n_agents}), or None"
        fix = (
            "set row i to True at the neighbours of agent i; if they change, leave this None and "
            "fill TimeStep.neighbours"
        )
        yield Finding(where, f"{dtype} {shape}", expected, fix)
    elif neighbours.diagonal().any():
        message = "an agent is its own neighbour, so its own action enters its mean action"
        yield note(where, message, "set the diagonal to False unless this is intended")


def _tabular(subject: Subject) -> Iterator[Finding]:
    spec = subject.spec
    if spec.n_states is None:
        return
    if not _is_integer(spec.n_states):
        fix = "give the number of states, or leave n_states out"
        yield Finding("spec.n_states", repr(spec.n_states), "an integer >= 1", fix)
    elif {spec.obs_shape, *spec.obs_shapes} != {(1,)}:
        fix = "let every agent observe the state's index, as f32; networks receive it one-hot"
        yield Finding("spec.obs_shape", f"{spec.obs_shape}", "(1,) if spec.n_states is set", fix)


def _team_reward(subject: Subject) -> Iterator[Finding]:
    team_reward: Any = subject.env.team_reward
    n_agents = subject.spec.n_agents
    for leading in ((), (3,)):
        if team_reward is None:
            break
        rewards: Any = np.zeros((*leading, n_agents), np.float32)
        if isinstance(subject.env, envs.Env):
            rewards = jnp.asarray(rewards)
        shape = np.shape(team_reward(rewards))
        if shape != leading:
            got = f"shape {shape} from rewards of shape {rewards.shape}"
            fix = "reduce the last axis only, as envs.base.sum_over_agents does"
            yield Finding("team_reward", got, f"{leading}", fix)
            return
    if subject.spec.zero_sum and (team_reward is not None or n_agents != 2):
        got = f"{n_agents} agents" + " and a team reward" * (team_reward is not None)
        fix = "set team_reward=None, and zero_sum for two-agent games only"
        yield Finding("spec.zero_sum", got, "two agents that compete", fix)


def _algorithms(subject: Subject) -> Iterator[Finding]:
    """One note per reason why algorithms cannot train in the environment."""
    names = components.names("algorithms")
    is_host = isinstance(subject.env, envs.HostEnv)
    reasons: dict[str, str] = {}
    for name in names:
        needs = components.find("algorithms", name).NEEDS
        collector = "episode" if is_host else needs.collectors[0]
        reason = algorithms.unmet(needs, subject.env, needs.replay[0], collector, has_memory=False)
        if reason is not None:
            reasons[name] = reason
    fitting = ", ".join(name for name in names if name not in reasons) or "none"
    for reason in dict.fromkeys(reasons.values()):
        refused = ", ".join(name for name in reasons if reasons[name] == reason)
        message = f"{refused} cannot train here ({reason})"
        yield note("algorithms", message, f"algorithms that can: {fitting}")


def _agent_state(subject: Subject) -> Iterator[Finding]:
    where, columns, spec = "spec.agent_state", subject.spec.agent_state, subject.spec
    if columns is None:
        return
    if not isinstance(columns, np.ndarray) or columns.dtype != np.int32 or columns.ndim != 2:
        dtype, shape = getattr(columns, "dtype", ""), getattr(columns, "shape", "")
        got, expected = f"{type(columns).__name__} {dtype} {shape}", "numpy int32 [n_agents, F]"
        yield Finding(where, got, f"{expected}, or None", "build it with np.array(..., np.int32)")
        return
    if len(columns) != spec.n_agents or not columns.size:
        expected = f"a row with one or more columns for each of {spec.n_agents} agents"
        fix = "list each agent's columns of the state, or set None"
        yield Finding(where, f"shape {columns.shape}", expected, fix)
        return
    if columns.min() < 0 or columns.max() >= spec.state_size:
        got = f"columns {columns.min()} to {columns.max()}"
        expected = f"columns 0 to {spec.state_size - 1} (state_size {spec.state_size})"
        yield Finding(where, got, expected, "use indices into TimeStep.state, from 0")
    if np.unique(columns).size < columns.size:
        fix = "leave out columns that describe no single agent"
        yield Finding(where, "a column listed twice", "no columns shared between agents", fix)


def _bounds(subject: Subject) -> Iterator[Finding]:
    for field in ("obs", "state"):
        where, bounds = f"spec.{field}_bounds", getattr(subject.spec, f"{field}_bounds")
        if bounds is None:
            advice = f"set (lowest, highest) if known; replay.{field}_dtype=uint8 needs it"
            yield note(where, "not set", advice)
        elif not _is_interval(bounds):
            expected = "two finite numbers, the lower one first"
            yield Finding(where, repr(bounds), expected, "correct them, or leave them out")


def _reproducible(subject: Subject) -> Iterator[Finding]:
    spec, remade = subject.spec, subject.remake().spec
    for name in (field.name for field in dataclasses.fields(EnvSpec)):
        first, second = getattr(spec, name), getattr(remade, name)
        if not np.array_equal(first, second) if isinstance(first, np.ndarray) else first != second:
            got = f"{first!r}, and {second!r} from a second make(cfg)"
            fix = "let make depend on its options only"
            yield Finding(f"spec.{name}", got, "equal values from equal options", fix)


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
    Check("spec: observation blocks", _blocks),
    Check("spec: neighbours", _neighbours),
    Check("spec: states", _tabular),
    Check("team reward", _team_reward),
    Check("algorithms that fit", _algorithms),
    Check("spec: equal for equal options", _reproducible),
)
