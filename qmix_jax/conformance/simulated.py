"""Checks that play the environment."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.conformance.base import Check, Finding, Subject, note
from qmix_jax.conformance.play import to_numpy
from qmix_jax.types import Box, TimeStep

_RTOL, _ATOL = 1e-4, 1e-5
"""Tolerance for floats: programs of different shape round differently."""
_OVERSHOOT = 0.1
"""Tolerated excess over the stated bounds, which 8-bit replay clips."""


def _timesteps(subject: Subject) -> tuple[tuple[str, TimeStep], ...]:
    return ("reset", subject.playthrough.timesteps), ("step", subject.playthrough.next_timesteps)


def _first_timestep(subject: Subject) -> Iterator[Finding]:
    played = subject.playthrough
    for name in ("reward", "terminated", "truncated"):
        values = getattr(played.timesteps, name)[played.reset]
        if values.any():
            got, expected = str(values[values != 0][0]), "0" if name == "reward" else "False"
            fix = "nothing has happened yet; envs.base.first_timestep fills these fields"
            yield Finding(f"reset: TimeStep.{name}", got, expected, fix)


def _finite(subject: Subject) -> Iterator[Finding]:
    fix = "look for divisions by zero, logarithms and infinite bounds"
    for where, timestep in _timesteps(subject):
        arrays: dict[str, Any] = {
            name: getattr(timestep, name) for name in ("obs", "state", "reward")
        }
        bad = {name: x[~np.isfinite(x)] for name, x in {**arrays, **timestep.metrics}.items()}
        yield from (
            Finding(f"{where}: TimeStep.{name}", f"{x[0]} in {x.size} places", "finite values", fix)
            for name, x in bad.items()
            if x.size
        )


def _available_action(subject: Subject) -> Iterator[Finding]:
    played, names = subject.playthrough, subject.spec.agent_names
    for (where, timestep), steps in zip(
        _timesteps(subject), (played.reset, np.ones_like(played.reset)), strict=True
    ):
        stuck = ~np.asarray(timestep.avail_actions).any(axis=-1) & steps[..., None]
        at_end = where == "step" and not (stuck & ~played.ended[..., None]).any()
        yield from (
            Finding(
                f"{where}: TimeStep.avail_actions",
                f"no available action for agent {names[agent]!r} at {stuck[..., agent].sum()} steps"
                + ", all at the end of an episode" * at_end,
                "one or more for every agent at every step, dead agents and final steps included",
                "give agents that cannot act a no-op",
            )
            for agent in np.flatnonzero(stuck.any(axis=(0, 1)))
        )


def _padding(subject: Subject) -> Iterator[Finding]:
    timesteps, spec = subject.playthrough.next_timesteps, subject.spec
    for i, name in enumerate(spec.agent_names):
        size, avail = spec.actions.sizes[i], timesteps.avail_actions[:, :, i]
        where = f"step: TimeStep.avail_actions of {name!r}"
        if avail[..., size:].any():
            got, expected = (
                f"actions {size} or higher",
                f"only 0 to {size - 1} (spec.actions.sizes)",
            )
            fix = "combine the mask with spec.actions.exists, which is False for padding"
            yield Finding(where, got, expected, fix)
        if isinstance(spec.actions, Box) and not avail[..., :size].all():
            got, expected = "an unavailable dimension", "all its dimensions at every step"
            fix = "set jnp.asarray(spec.actions.exists): continuous actions have no masks"
            yield Finding(where, got, expected, fix)
        padding = np.ones(spec.obs_shape, bool)
        padding[tuple(slice(size) for size in spec.obs_shapes[i])] = False
        if timesteps.obs[:, :, i][..., padding].any():
            got = f"nonzero values beyond its shape {spec.obs_shapes[i]}"
            fix = "pad with zeros at the end, or correct spec.obs_shapes"
            yield Finding(f"step: TimeStep.obs of {name!r}", got, "zeros there", fix)


def _state_indices(subject: Subject) -> Iterator[Finding]:
    n_states = subject.spec.n_states
    if n_states is None:
        return
    for where, timestep in _timesteps(subject):
        index = np.asarray(timestep.obs)
        wrong = index[(index < 0) | (index >= n_states) | (index != np.round(index))]
        if wrong.size:
            expected = f"a state index from 0 to {n_states - 1} (spec.n_states={n_states})"
            fix = "observe the index of the state as f32, or raise n_states"
            yield Finding(f"{where}: TimeStep.obs", f"{wrong[0]:g}", expected, fix)


def _zero_sum(subject: Subject) -> Iterator[Finding]:
    if not subject.spec.zero_sum or subject.spec.n_agents != 2:
        return
    rewards = np.asarray(subject.playthrough.next_timesteps.reward)
    wrong = ~np.isclose(rewards[..., 0], -rewards[..., 1], _RTOL, _ATOL)
    if wrong.any():
        pair = " and ".join(f"{value:g}" for value in rewards[wrong][0])
        got = f"{pair}, at {wrong.sum()} of {wrong.size} steps"
        fix = "pay one agent what the other loses, or leave zero_sum out"
        expected = "two rewards that sum to zero (spec.zero_sum)"
        yield Finding("step: TimeStep.reward", got, expected, fix)


def _neighbours(subject: Subject) -> Iterator[Finding]:
    neighbours = subject.playthrough.next_timesteps.neighbours
    if neighbours is not None and np.diagonal(neighbours, axis1=-2, axis2=-1).any():
        message = "an agent is its own neighbour, so its own action enters its mean action"
        advice = "set the diagonal to False unless this is intended"
        yield note("step: TimeStep.neighbours", message, advice)


def _not_both_ends(subject: Subject) -> Iterator[Finding]:
    timesteps = subject.playthrough.next_timesteps
    both = timesteps.terminated & timesteps.truncated
    if both.any():
        where, got = "step: TimeStep.terminated and truncated", f"both True at {both.sum()} steps"
        fix = "truncated is for the time limit only: truncated = (step >= limit) & ~terminated"
        yield Finding(where, got, "at most one of them", fix)


def _time_limit(subject: Subject) -> Iterator[Finding]:
    max_steps = subject.spec.max_steps
    if subject.playthrough.timed_out.any():
        got = f"an episode that continues after {max_steps} steps"
        expected = f"every episode to end by then (spec.max_steps={max_steps})"
        fix = "count steps in the env state and set truncated at the limit, or raise max_steps"
        yield Finding("step: TimeStep.truncated", got, expected, fix)


def _bounds(subject: Subject) -> Iterator[Finding]:
    for field in ("obs", "state"):
        bounds = getattr(subject.spec, f"{field}_bounds")
        values = getattr(subject.playthrough.next_timesteps, field)
        if bounds is None:
            continue
        low, high = values.min(), values.max()
        if low < bounds[0] - _OVERSHOOT or high > bounds[1] + _OVERSHOOT:
            got, expected = f"values from {low:.4g} to {high:.4g}", f"spec.{field}_bounds {bounds}"
            fix = f"widen the bounds or set them to None; replay.{field}_dtype=uint8 would clip"
            yield Finding(f"step: TimeStep.{field}", got, expected, fix)


def _no_auto_reset(subject: Subject) -> Iterator[Finding]:
    """Detects an auto-reset from env-state leaves that have one value after all resets, but never
    inside an episode: an auto-reset restores all of them at the last step of every episode.
    """
    played = subject.playthrough
    if not played.ended.any() or played.ended.all():
        return
    before = jax.tree.leaves(played.env_states)
    after = jax.tree.leaves(played.next_env_states)
    restored = []
    for leaf, next_leaf in zip(before, after, strict=True):
        starts = leaf[played.reset]
        value = starts[0]
        equal = (next_leaf == value).reshape(*played.ended.shape, -1).all(axis=-1)
        if (starts == value).all() and not equal[~played.ended].any():
            restored.append(equal[played.ended].all())
    if restored and all(restored):
        got = "a freshly reset env state at the end of every episode"
        fix = "remove the environment's auto-reset; the trainer resets environments itself"
        yield Finding("step", got, "the true final state and observation", fix)


_DIFFERENCES = {
    "repeated": ("different results from the same inputs", "take all randomness from the key"),
    "batched": ("a different result in a batch than alone", "do not share data between episodes"),
    "eager": (
        "a different result without jit",
        "do not depend on changing Python variables, or on whether values are concrete",
    ),
}


def _compare(where: str, difference: str, result: Any, expected: Any) -> Iterator[Finding]:
    """Reports the first leaf that differs, if any."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(to_numpy(result))
    for (path, leaf), other in zip(leaves, jax.tree.leaves(expected), strict=True):
        is_float = np.issubdtype(leaf.dtype, np.floating)
        rtol, atol = (_RTOL, _ATOL) if is_float else (0, 0)
        if not np.allclose(leaf, other, rtol, atol, equal_nan=True):
            got, fix = _DIFFERENCES[difference]
            part = ("env_state", "TimeStep")[getattr(path[0], "idx", 1)]
            name = f"{where}: {part}{jax.tree_util.keystr(path[1:])}"
            yield Finding(name, got, "equal results", fix)
            return


def _at(subject: Subject, row: int, step: int) -> Any:
    """(env_state, TimeStep) before a step of the playthrough."""
    played = subject.playthrough
    return jax.tree.map(lambda leaf: leaf[row, step], (played.env_states, played.timesteps))


def _after_first_step(subject: Subject) -> Any:
    """(env_state, TimeStep) after the first step of the playthrough."""
    played = subject.playthrough
    return jax.tree.map(lambda leaf: leaf[0, 0], (played.next_env_states, played.next_timesteps))


def _step_arguments(subject: Subject, env_state: Any) -> tuple[Any, ...]:
    played = subject.playthrough
    return played.step_keys[0, 0], env_state, jnp.asarray(played.actions[0, 0])


def _same_key(subject: Subject) -> Iterator[Finding]:
    """Compares compiled calls of one environment with the batch that was played, and repeats."""
    reset, step = subject.reset, subject.step
    key = subject.playthrough.reset_keys[0, 0]
    yield from _compare("reset", "batched", reset(key), _at(subject, 0, 0))
    yield from _compare("reset", "repeated", reset(key), to_numpy(reset(key)))
    arguments = _step_arguments(subject, reset(key)[0])
    yield from _compare("step", "batched", step(*arguments), _after_first_step(subject))
    yield from _compare("step", "repeated", step(*arguments), to_numpy(step(*arguments)))


def _later_episodes(subject: Subject) -> Iterator[Finding]:
    reset = subject.playthrough.reset
    rows, steps = np.nonzero(reset & (np.arange(reset.shape[1]) > 0))
    if rows.size:
        row, step = rows[0], steps[0]
        result = subject.reset(subject.playthrough.reset_keys[row, step])
        yield from _compare("reset after an episode", "batched", result, _at(subject, row, step))


def _eager(subject: Subject) -> Iterator[Finding]:
    first = subject.jax_env.reset(subject.playthrough.reset_keys[0, 0])
    yield from _compare("reset", "eager", first, _at(subject, 0, 0))
    second = subject.jax_env.step(*_step_arguments(subject, first[0]))
    yield from _compare("step", "eager", second, _after_first_step(subject))


def _initial_states(subject: Subject) -> Iterator[Finding]:
    played = subject.playthrough
    leaves = jax.tree.leaves((played.env_states, played.timesteps))
    starts = [leaf[played.reset] for leaf in leaves]
    if all((leaf == leaf[:1]).all() for leaf in starts):
        message = f"the same initial state from {len(starts[0])} keys"
        yield note("reset", message, "fine if the task is deterministic; use the key otherwise")


def _rewards(subject: Subject) -> Iterator[Finding]:
    rewards = np.asarray(subject.playthrough.next_timesteps.reward)
    if (rewards == rewards[0, 0]).all():
        values = ", ".join(f"{value:g}" for value in dict.fromkeys(rewards[0, 0].tolist()))
        message = f"always {values} in {rewards[..., 0].size} random steps"
        advice = "if longer play earns no other reward, shape the reward or use a smaller task"
        yield note("step: TimeStep.reward", message, advice)


HOST_CHECKS = (
    Check("reset starts an episode", _first_timestep),
    Check("values are finite", _finite),
    Check("every agent has an available action", _available_action),
    Check("padding of actions and observations", _padding),
    Check("state indices are in range", _state_indices),
    Check("rewards sum to zero", _zero_sum),
    Check("no agent is its own neighbour", _neighbours),
    Check("terminated or truncated, not both", _not_both_ends),
    Check("episodes end by max_steps", _time_limit),
    Check("values are within their bounds", _bounds),
)
"""Checks that apply to host environments too."""
CHECKS = (
    *HOST_CHECKS,
    Check("no auto-reset", _no_auto_reset),
    Check("same key, same result, alone or in a batch", _same_key),
    Check("later episodes start as reset does", _later_episodes),
    Check("compiled equals eager", _eager),
    Check("initial states vary with the key", _initial_states),
    Check("random play earns rewards", _rewards),
)
