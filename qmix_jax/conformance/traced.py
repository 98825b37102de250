"""Checks of traced functions: shapes, dtypes, purity. Nothing runs."""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.conformance import base
from qmix_jax.conformance.base import Check, Finding, Subject
from qmix_jax.conformance.play import to_numpy
from qmix_jax.envs import base as envs
from qmix_jax.types import TimeStep

_RANKS = re.compile(r".* for (\w+ on shapes .*\)) and with the config.*")
_CALLBACKS = re.compile(r"\b(\w*callback|debug_print)\[")
_OPTIONAL = ("alive", "neighbours")
"""Fields of a `TimeStep` that may be None."""


def _calls(subject: Subject) -> Iterator[Finding]:
    for name, trace in (
        ("reset", lambda: subject.reset_result),
        ("step", lambda: subject.step_result),
    ):
        try:
            result = trace()
        except Exception as error:  # user code may raise anything
            yield base.from_exception(name, error, subject.folder)
            return
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], TimeStep):
            kinds = (
                [type(part).__name__ for part in result] if isinstance(result, tuple) else result
            )
            yield Finding(name, str(kinds)[:200], "(env_state, TimeStep)", "return these two")
            return


def _timesteps(subject: Subject) -> tuple[tuple[str, TimeStep], ...]:
    return ("reset", subject.reset_result[1]), ("step", subject.step_result[1])


def _shapes(subject: Subject) -> Iterator[Finding]:
    spec, n_agents = subject.spec, subject.spec.n_agents
    shapes = {
        "obs": (n_agents, *spec.obs_shape),
        "state": (spec.state_size,),
        "avail_actions": (n_agents, spec.actions.width),
        "reward": (n_agents,),
        "terminated": (),
        "truncated": (),
        "alive": (n_agents,),
        "neighbours": (n_agents, n_agents),
    }
    fixes = {
        "obs": "one row per agent, padded to spec.obs_shape",
        "state": "return a vector, or correct spec.state_size",
        "avail_actions": "one row per agent, as wide as the largest of spec.actions.sizes",
        "reward": "one reward per agent; a single team reward is for envs.base.team_env(spec, "
        "reset, step)",
        "alive": "one flag per agent, or None if all act throughout",
        "neighbours": "one row per agent, or None for spec.neighbours",
    }
    for (where, timestep), name in itertools.product(_timesteps(subject), shapes):
        leaf, shape = getattr(timestep, name), shapes[name]
        if leaf is None and name in _OPTIONAL:
            continue
        if getattr(leaf, "shape", None) != shape:
            got = getattr(leaf, "shape", type(leaf).__name__)
            fix = fixes.get(name, "one flag for the episode")
            yield Finding(f"{where}: TimeStep.{name}", f"shape {got}", f"{shape}", fix)


def _dtypes(subject: Subject) -> Iterator[Finding]:
    flags = ("avail_actions", "terminated", "truncated", *_OPTIONAL)
    names = ("obs", "state", "reward", *flags)
    is_host = isinstance(subject.env, envs.HostEnv)
    for (where, timestep), name in itertools.product(_timesteps(subject), names):
        leaf = getattr(timestep, name)
        if leaf is None and name in _OPTIONAL:
            continue
        expected = jnp.dtype(jnp.bool_ if name in flags else jnp.float32)
        dtype = getattr(leaf, "dtype", None)
        # Time steps of host environments are converted to the exact dtype when they are stored.
        if dtype != expected and not (
            is_host and dtype is not None and dtype.kind == expected.kind
        ):
            got = type(leaf).__name__ if dtype is None else dtype
            fix = f"add .astype({'bool' if name in flags else 'jnp.float32'})"
            yield Finding(f"{where}: TimeStep.{name}", str(got), str(expected), fix)


def _metrics(subject: Subject) -> Iterator[Finding]:
    names = subject.spec.metric_names
    is_host = isinstance(subject.env, envs.HostEnv)
    for where, timestep in _timesteps(subject):
        metrics = timestep.metrics
        if not isinstance(metrics, dict) or {*metrics} != {*names}:
            got = sorted(metrics) if isinstance(metrics, dict) else type(metrics).__name__
            expected = f"the names in spec.metric_names, {sorted(names)}"
            fix = "list every metric in both; reset returns all of them too"
            yield Finding(f"{where}: TimeStep.metrics", str(got), expected, fix)
            continue
        forms = {name: _form(jnp.float32(x) if is_host else x) for name, x in metrics.items()}
        wrong = {name: form for name, form in forms.items() if form != ("float32", ())}
        fix = "reduce it to one number and add .astype(jnp.float32)"
        for name, (dtype, shape) in wrong.items():
            part = f"{where}: TimeStep.metrics[{name!r}]"
            yield Finding(part, f"{dtype} {shape}", "a float32 scalar", fix)


def _form(leaf: Any) -> tuple[str, Any]:
    """(dtype, shape), or the name of the type and "" if it is not an array."""
    return str(getattr(leaf, "dtype", type(leaf).__name__)), getattr(leaf, "shape", "")


def _leaves(result: Any) -> dict[str, Any]:
    """Path -> leaf of a result of `reset` or `step`: `env_state['step']`, `TimeStep.obs`."""
    return {
        f"{part}{jax.tree_util.keystr(path)}": leaf
        for part, tree in zip(("env_state", "TimeStep"), result, strict=True)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _structure(subject: Subject) -> Iterator[Finding]:
    """A scan feeds the result of `step` into the next `step`, so the two must match."""
    before, after = _leaves(subject.reset_result), _leaves(subject.step_result)
    for path in sorted({*before} ^ {*after}):
        got = "missing" if path in before else "a new field"
        fix = "return trees of the same structure from both"
        yield Finding(f"step: {path}", got, "the same fields as from reset", fix)
    for path in sorted({*before} & {*after}):
        (dtype, shape), form = _form(before[path]), _form(after[path])
        if form != (dtype, shape):
            fix = f"add .astype(jnp.{dtype})" if form[1] == shape else "keep its shape"
            got, expected = "{} {}".format(*form), f"{dtype} {shape} as from reset"
            yield Finding(f"step: {path}", got, expected, fix)


def _weak_types(subject: Subject) -> Iterator[Finding]:
    for name, result in (("reset", subject.reset_result), ("step", subject.step_result)):
        weak = {path: leaf.dtype for path, leaf in _leaves(result).items() if leaf.weak_type}
        for path, dtype in weak.items():
            got = f"a weakly typed {dtype} (made from a Python number)"
            expected = "a strongly typed array, which keeps its dtype inside a scan"
            fix = f"write jnp.asarray(..., jnp.{dtype}) or jnp.zeros((), ...)"
            yield Finding(f"{name}: {path}", got, expected, fix)


def _functions(subject: Subject) -> Iterator[tuple[str, Callable, tuple[Any, ...]]]:
    key = base.key_shape()
    yield "reset", subject.jax_env.reset, (key,)
    yield "step", subject.jax_env.step, (key, subject.reset_result[0], subject.action_shape)


def _uncached(function: Callable) -> Callable:
    """An equal function with a new identity, so that JAX traces it again."""
    return lambda *arguments: function(*arguments)


def _jaxpr_text(jaxpr: Any) -> str:
    """The jaxpr as text, without addresses of Python objects."""
    return re.sub(r"0x[0-9a-f]+", "", str(jaxpr))


def _pure(subject: Subject) -> Iterator[Finding]:
    for name, function, arguments in _functions(subject):
        with jax.checking_leaks():
            first, second = (jax.make_jaxpr(_uncached(function))(*arguments) for _ in range(2))
        text = _jaxpr_text(first)
        same_constants = len(first.consts) == len(second.consts) and all(
            map(np.array_equal, to_numpy(first.consts), to_numpy(second.consts))
        )
        if text != _jaxpr_text(second) or not same_constants:
            got, expected = (
                "different programs from tracing it twice",
                "the same program every time",
            )
            fix = "draw random numbers from the key only, and keep counters in the env state"
            yield Finding(name, got, expected, fix)
        if callbacks := sorted({*_CALLBACKS.findall(text)}):
            expected = "no calls from the compiled program into Python"
            fix = "remove jax.debug.print and callbacks, or write an envs.base.HostEnv"
            yield Finding(name, ", ".join(callbacks), expected, fix)


def _rank_promotion(subject: Subject) -> Iterator[Finding]:
    with jax.numpy_rank_promotion("raise"):
        errors = {name: _tracing_error(f, args) for name, f, args in _functions(subject)}
    for name, error in errors.items():
        if error is not None:
            finding = base.from_exception(name, error, subject.folder)
            message = _RANKS.sub(r"\1 broadcasts", finding.got)
            advice = "fine if intended; write the missing axis, x[None], to make it explicit"
            yield base.note(finding.where, message, advice)


def _tracing_error(function: Callable, arguments: tuple[Any, ...]) -> ValueError | None:
    try:
        jax.eval_shape(_uncached(function), *arguments)
    except ValueError as error:
        return error
    return None


CALLS = (Check("reset and step can be compiled", _calls),)
RECORDS = (
    Check("TimeStep: shapes", _shapes),
    Check("TimeStep: dtypes", _dtypes),
    Check("TimeStep: metrics", _metrics),
    Check("step returns the structure of reset", _structure),
)
"""Preconditions of playing the environment."""
CHECKS = (
    Check("no weak types", _weak_types),
    Check("no side effects", _pure),
    Check("no accidental broadcasting", _rank_promotion),
)
