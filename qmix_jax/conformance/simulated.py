"""Checks of what an environment does when it is played."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.conformance.base import Check, Finding, Subject
from qmix_jax.types import Box

_RTOL, _ATOL = 1e-4, 1e-5
"""Floats that differ by less are equal: programs of different shape round differently."""
_OVERSHOOT = 0.1
"""Values may pass a stated bound by this; what is kept in 8 bits is clipped."""


def _begins(subject: Subject) -> Iterator[Finding]:
    played = subject.played
    for name in ("reward", "terminated", "truncated"):
        values = getattr(played.shown, name)[played.reset]
        if values.any():
            yield Finding(
                f"reset: TimeStep.{name}",
                str(values[values != 0][0]),
                "0" if name == "reward" else "False",
                "nothing has happened yet; envs.base.first_timestep fills these fields",
            )


def _finite(subject: Subject) -> Iterator[Finding]:
    played = subject.played
    for where, timestep in (("reset", played.shown), ("step", played.stepped)):
        fields: dict[str, Any] = {
            name: getattr(timestep, name) for name in ("obs", "state", "reward")
        }
        bad = {name: x[~np.isfinite(x)] for name, x in {**fields, **timestep.metrics}.items()}
        yield from (
            Finding(
                f"{where}: TimeStep.{name}",
                f"{values[0]} at {values.size} places",
                "finite numbers",
                "look for divisions by zero, logarithms and infinite bounds",
            )
            for name, values in bad.items()
            if values.size
        )


def _can_act(subject: Subject) -> Iterator[Finding]:
    played, names = subject.played, subject.spec.agent_names
    for where, avail, at in (
        ("reset", played.shown.avail_actions, played.reset),
        ("step", played.stepped.avail_actions, np.ones_like(played.reset)),
    ):
        stuck = ~np.asarray(avail).any(axis=-1) & at[..., None]
        last = where == "step" and not (stuck & ~played.ended[..., None]).any()
        yield from (
            Finding(
                f"{where}: TimeStep.avail_actions",
                f"no action for agent {names[agent]!r} at {stuck[..., agent].sum()} steps"
                + ", all at the end of an episode" * last,
                "at least one for every agent, dead ones and the last step included",
                "give an agent that cannot act a no-op",
            )
            for agent in np.flatnonzero(stuck.any(axis=(0, 1)))
        )


def _padding(subject: Subject) -> Iterator[Finding]:
    played, spec = subject.played, subject.spec
    for i, name in enumerate(spec.agent_names):
        size, avail = spec.actions.sizes[i], played.stepped.avail_actions[:, :, i]
        if avail[..., size:].any():
            yield Finding(
                f"step: TimeStep.avail_actions of {name!r}",
                f"an action from {size} on",
                f"only its own {size} (spec.actions.sizes)",
                "mask the rest; spec.actions.exists is the mask of what agents have",
            )
        if isinstance(spec.actions, Box) and not avail[..., :size].all():
            yield Finding(
                f"step: TimeStep.avail_actions of {name!r}",
                "a number of its action that is not available",
                "all that it has, at every step",
                "show jnp.asarray(spec.actions.exists): a Box has no masks",
            )
        rest = np.ones(spec.obs_shape, bool)
        rest[tuple(slice(size) for size in spec.obs_shapes[i])] = False
        if played.stepped.obs[:, :, i][..., rest].any():
            yield Finding(
                f"step: TimeStep.obs of {name!r}",
                f"values beyond its own shape {spec.obs_shapes[i]}",
                "zeros there",
                "pad with zeros at the end, or correct spec.obs_shapes",
            )


def _states(subject: Subject) -> Iterator[Finding]:
    n_states = subject.spec.n_states
    if n_states is None:
        return
    for where, timestep in (("reset", subject.played.shown), ("step", subject.played.stepped)):
        seen = np.asarray(timestep.obs)
        wrong = seen[(seen < 0) | (seen >= n_states) | (seen != np.round(seen))]
        if wrong.size:
            yield Finding(
                f"{where}: TimeStep.obs",
                f"{wrong[0]:g}",
                f"the index of a state, from 0 to {n_states - 1} (spec.n_states={n_states})",
                "show the state's index as f32, or raise n_states",
            )


def _zero_sum(subject: Subject) -> Iterator[Finding]:
    if not subject.spec.zero_sum or subject.spec.n_agents != 2:
        return
    rewards = np.asarray(subject.played.stepped.reward)
    wrong = ~np.isclose(rewards[..., 0], -rewards[..., 1], _RTOL, _ATOL)
    if wrong.any():
        pair = " and ".join(f"{value:g}" for value in rewards[wrong][0])
        yield Finding(
            "step: TimeStep.reward",
            f"{pair}, at {wrong.sum()} of {wrong.size} steps",
            "two numbers that add up to zero (spec.zero_sum)",
            "pay one agent what the other loses, or leave zero_sum out",
        )


def _near(subject: Subject) -> Iterator[Finding]:
    near = subject.played.stepped.neighbours
    if near is not None and np.diagonal(near, axis1=-2, axis2=-1).any():
        yield Finding(
            "step: TimeStep.neighbours",
            "an agent that is its own neighbour, whose own action enters its mean action",
            "",
            "leave the diagonal False unless you mean it",
            fails=False,
        )


def _one_end(subject: Subject) -> Iterator[Finding]:
    stepped = subject.played.stepped
    both = stepped.terminated & stepped.truncated
    if both.any():
        yield Finding(
            "step: TimeStep.terminated and truncated",
            f"both at {both.sum()} steps",
            "one of them at most",
            "truncated is the time limit alone: truncated = (step >= limit) & ~terminated",
        )


def _limit(subject: Subject) -> Iterator[Finding]:
    timed_out, longest = subject.played.timed_out, subject.spec.max_steps
    if timed_out.any():
        yield Finding(
            "step: TimeStep.truncated",
            f"an episode that goes on after {longest} steps",
            f"its end by then (spec.max_steps={longest})",
            "count steps in the env state and set truncated at the limit, or raise max_steps",
        )


def _within_bounds(subject: Subject) -> Iterator[Finding]:
    for field in ("obs", "state"):
        bounds = getattr(subject.spec, f"{field}_bounds")
        values = getattr(subject.played.stepped, field)
        if bounds is None:
            continue
        low, high = values.min(), values.max()
        if low < bounds[0] - _OVERSHOOT or high > bounds[1] + _OVERSHOOT:
            yield Finding(
                f"step: TimeStep.{field}",
                f"values from {low:.4g} to {high:.4g}",
                f"spec.{field}_bounds {bounds}",
                f"widen the bounds, or set None; replay.{field}_dtype=uint8 would clip them",
            )


def _same_key(subject: Subject) -> Iterator[Finding]:
    """Alone and compiled, as in the batch that was played, and the same again."""
    played = subject.played
    reset, step = subject.reset, subject.step
    key = played.reset_keys[0, 0]
    yield from _compare("reset", "played", reset(key), _at(subject, "shown", 0, 0))
    yield from _compare("reset", "repeated", reset(key), _host(reset(key)))
    arguments = _arguments(subject, reset(key)[0])
    yield from _compare("step", "played", step(*arguments), _at(subject, "stepped", 0, 0))
    yield from _compare("step", "repeated", step(*arguments), _host(step(*arguments)))


def _fresh_starts(subject: Subject) -> Iterator[Finding]:
    """The first observation after an auto-reset is `reset`'s."""
    rows, steps = np.nonzero(subject.played.reset & (np.arange(subject.played.reset.shape[1]) > 0))
    if rows.size:
        row, step = rows[0], steps[0]
        expected = subject.reset(subject.played.reset_keys[row, step])
        yield from _compare("auto-reset", "played", expected, _at(subject, "shown", row, step))


def _eager(subject: Subject) -> Iterator[Finding]:
    key = subject.played.reset_keys[0, 0]
    first = subject.pure.reset(key)
    yield from _compare("reset", "compiled", first, _at(subject, "shown", 0, 0))
    after = subject.pure.step(*_arguments(subject, first[0]))
    yield from _compare("step", "compiled", after, _at(subject, "stepped", 0, 0))


def _own_reset(subject: Subject) -> Iterator[Finding]:
    """What every reset sets to the same value and no step of an episode does is back at its end."""
    played = subject.played
    if not played.ended.any() or played.ended.all():
        return
    before = jax.tree.leaves(played.env_states)
    after = jax.tree.leaves(played.env_states_after)
    told = []
    for first, then in zip(before, after, strict=True):
        starts = first[played.reset]
        value = starts[0]
        is_back = (then == value).reshape(*played.ended.shape, -1).all(axis=-1)
        if (starts == value).all() and not is_back[~played.ended].any():
            told.append(is_back[played.ended].all())
    if told and all(told):
        yield Finding(
            "step",
            "an env state as after reset at the end of every episode",
            "the true final state and observation",
            "take out the environment's own auto-reset; fresh episodes are started for you",
        )


def _varies(subject: Subject) -> Iterator[Finding]:
    played = subject.played
    starts = [leaf[played.reset] for leaf in jax.tree.leaves((played.env_states, played.shown))]
    if all((leaf == leaf[:1]).all() for leaf in starts):
        yield Finding(
            "reset",
            f"the same start from {len(starts[0])} keys",
            "starts that differ, unless the task is deterministic",
            "draw it with the key if it is to vary",
            fails=False,
        )


def _rewards(subject: Subject) -> Iterator[Finding]:
    rewards = np.asarray(subject.played.stepped.reward)
    if (rewards == rewards[0, 0]).all():
        each = ", ".join(f"{value:g}" for value in dict.fromkeys(rewards[0, 0].tolist()))
        yield Finding(
            "step: TimeStep.reward",
            f"{each} at each of only {rewards[..., 0].size} random steps",
            "a reward that random play meets now and then",
            "where longer play meets no other either, shape the reward or make a smaller instance",
            fails=False,
        )


def _arguments(subject: Subject, env_state: Any) -> tuple[Any, ...]:
    played = subject.played
    return played.step_keys[0, 0], env_state, jnp.asarray(played.actions[0, 0])


def _at(subject: Subject, name: str, row: int, step: int) -> Any:
    """(env_state, TimeStep) of one step, before or after it."""
    played = subject.played
    states = played.env_states if name == "shown" else played.env_states_after
    return jax.tree.map(lambda leaf: leaf[row, step], (states, getattr(played, name)))


def _host(tree: Any) -> Any:
    def numbers(leaf: Any) -> np.ndarray:
        leaf = jnp.asarray(leaf)
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(numbers, tree)


_DIFFERENCES = {
    "repeated": ("another result from the same inputs", "draw with the key only"),
    "played": ("another result in a batch than alone", "let nothing depend on other episodes"),
    "compiled": (
        "another result when it is not compiled",
        "let nothing depend on Python variables that change, or on values being concrete",
    ),
}


def _compare(where: str, how: str, ours: Any, theirs: Any) -> Iterator[Finding]:
    """At most one finding: the first leaf that differs."""
    flat, _ = jax.tree_util.tree_flatten_with_path(_host(ours))
    for (path, one), two in zip(flat, jax.tree.leaves(theirs), strict=True):
        exact = not np.issubdtype(one.dtype, np.floating)
        same = np.array_equal(one, two) if exact else np.allclose(one, two, _RTOL, _ATOL, True)
        if not same:
            got, fix = _DIFFERENCES[how]
            part = ("env_state", "TimeStep")[getattr(path[0], "idx", 1)]
            name = f"{where}: {part}{jax.tree_util.keystr(path[1:])}"
            yield Finding(name, got, "the same", fix)
            return


HOSTED = (
    Check("reset starts an episode", _begins),
    Check("values are finite", _finite),
    Check("every agent can always act", _can_act),
    Check("missing actions and padding", _padding),
    Check("states are within their range", _states),
    Check("rewards add up to zero", _zero_sum),
    Check("nobody is near itself", _near),
    Check("terminated or truncated, not both", _one_end),
    Check("episodes end by max_steps", _limit),
    Check("values are within their bounds", _within_bounds),
)
"""Of environments that are stepped in Python too."""
CHECKS = (
    *HOSTED,
    Check("the last step is shown, not a new start", _own_reset),
    Check("same key, same result; alone as in a batch", _same_key),
    Check("auto-reset shows what reset shows", _fresh_starts),
    Check("compiled as not compiled", _eager),
    Check("starts differ by key", _varies),
    Check("random play meets rewards", _rewards),
)
