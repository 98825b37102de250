"""Checks of what `reset` and `step` are to the compiler: shapes, types, purity. Nothing runs."""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qmix_jax.conformance import base
from qmix_jax.conformance.base import Check, Finding, Subject
from qmix_jax.envs import base as envs
from qmix_jax.types import TimeStep

_RANKS = re.compile(r".* for (\w+ on shapes .*\)) and with the config.*")
_CALLBACKS = re.compile(r"\b(\w*callback|debug_print)\[")
_OPTIONAL = ("alive", "neighbours")
"""Fields of a `TimeStep` that may be None."""


def _returns(subject: Subject) -> Iterator[Finding]:
    for name, result in (("reset", lambda: subject.first), ("step", lambda: subject.after)):
        try:
            found = result()
        except Exception as error:  # whatever the user's code raises
            yield base.of_exception(name, error, subject.folder)
            return
        if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[1], TimeStep):
            kinds = [type(part).__name__ for part in found] if isinstance(found, tuple) else found
            yield Finding(
                name, str(kinds)[:200], "(env_state, TimeStep)", "return exactly these two"
            )
            return


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
        "state": "make it a vector of spec.state_size, or correct that",
        "avail_actions": "one row per agent, as wide as the largest of spec.actions.sizes",
        "reward": "give each agent its own; one reward for all is envs.base.team_env(spec, reset, "
        "step), which takes a single number",
        "alive": "one flag per agent, or None where all act throughout",
        "neighbours": "one row per agent, or None for those of the spec",
    }
    for (where, timestep), name in itertools.product(_timesteps(subject), shapes):
        leaf, shape = getattr(timestep, name), shapes[name]
        if leaf is None and name in _OPTIONAL:
            continue
        if getattr(leaf, "shape", None) != shape:
            got = getattr(leaf, "shape", type(leaf).__name__)
            fix = fixes.get(name, "one flag for the whole episode")
            yield Finding(f"{where}: TimeStep.{name}", f"shape {got}", f"{shape}", fix)


def _dtypes(subject: Subject) -> Iterator[Finding]:
    flags = ("avail_actions", "terminated", "truncated", *_OPTIONAL)
    names = ("obs", "state", "reward", *flags)
    for (where, timestep), name in itertools.product(_timesteps(subject), names):
        leaf = getattr(timestep, name)
        if leaf is None and name in _OPTIONAL:
            continue
        dtype = jnp.dtype(jnp.bool_ if name in flags else jnp.float32)
        found = getattr(leaf, "dtype", None)
        # What is stepped in Python is stored in arrays of the exact type.
        hosted = isinstance(subject.env, envs.HostEnv)
        if found != dtype and not (hosted and found is not None and found.kind == dtype.kind):
            got = getattr(leaf, "dtype", type(leaf).__name__)
            fix = f"add .astype({'bool' if dtype == jnp.bool_ else 'jnp.float32'})"
            yield Finding(f"{where}: TimeStep.{name}", str(got), str(dtype), fix)


def _metrics(subject: Subject) -> Iterator[Finding]:
    names = subject.spec.metric_names
    for where, timestep in _timesteps(subject):
        found = timestep.metrics
        if not isinstance(found, dict) or {*found} != {*names}:
            got = sorted(found) if isinstance(found, dict) else type(found).__name__
            yield Finding(
                f"{where}: TimeStep.metrics",
                str(got),
                f"the names of spec.metric_names, {sorted(names)}",
                "name every metric in both, also in what reset returns",
            )
            continue
        hosted = isinstance(subject.env, envs.HostEnv)
        forms = {name: _form(jnp.float32(x) if hosted else x) for name, x in found.items()}
        wrong = {name: form for name, form in forms.items() if form != ("float32", ())}
        yield from (
            Finding(
                f"{where}: TimeStep.metrics[{name!r}]",
                "{} {}".format(*form),
                "a float32 scalar",
                "reduce it to one number and add .astype(jnp.float32)",
            )
            for name, form in wrong.items()
        )


def _structure(subject: Subject) -> Iterator[Finding]:
    """A scan carries what `step` returns into the next `step`."""
    before, then = _leaves(subject.first), _leaves(subject.after)
    for path in sorted({*before} ^ {*then}):
        yield Finding(
            f"step: {path}",
            "missing" if path in before else "new",
            "the same fields as reset returns",
            "return the same tree from both",
        )
    for path in sorted({*before} & {*then}):
        one, two = _form(before[path]), _form(then[path])
        if one != two:
            yield Finding(
                f"step: {path}",
                "{} {}".format(*two),
                "{} {} as from reset".format(*one),
                f"add .astype(jnp.{one[0]})" if one[1] == two[1] else "keep its shape",
            )


def _form(leaf: Any) -> tuple[str, Any]:
    """(type, shape), also of what is no array."""
    return str(getattr(leaf, "dtype", type(leaf).__name__)), getattr(leaf, "shape", "")


def _weak_types(subject: Subject) -> Iterator[Finding]:
    for name, returned in (("reset", subject.first), ("step", subject.after)):
        weak = {path: leaf for path, leaf in _leaves(returned).items() if leaf.weak_type}
        yield from (
            Finding(
                f"{name}: {path}",
                f"a weakly typed {leaf.dtype} (made from a Python number)",
                "a strongly typed array, which keeps its type inside a scan",
                f"write jnp.asarray(..., jnp.{leaf.dtype}) or jnp.zeros((), ...)",
            )
            for path, leaf in weak.items()
        )


def _pure(subject: Subject) -> Iterator[Finding]:
    for name, function, arguments in _functions(subject):
        with jax.checking_leaks():
            one, two = (jax.make_jaxpr(_anew(function))(*arguments) for _ in range(2))
        if _text(one) != _text(two) or not _equal(one.consts, two.consts):
            yield Finding(
                name,
                "two different programs from tracing it twice",
                "the same program every time",
                "draw with the key it is given instead of Python's or numpy's randomness, and keep "
                "counters in the env state",
            )
        found = sorted({*_CALLBACKS.findall(_text(one))})
        if found:
            yield Finding(
                name,
                ", ".join(found),
                "no call from the compiled program into Python",
                "take out jax.debug.print and callbacks, or see the bridge for environments in "
                "Python",
            )


def _ranks(subject: Subject) -> Iterator[Finding]:
    with jax.numpy_rank_promotion("raise"):
        errors = {name: _error(f, arguments) for name, f, arguments in _functions(subject)}
    for name, error in errors.items():
        if error is not None:
            said = base.of_exception(name, error, subject.folder)
            yield said._replace(
                got=_RANKS.sub(r"\1 broadcasts", said.got),
                expected="arrays of equal rank in every operation",
                fix="right if you mean it; writing the missing axis, x[None], says so",
                fails=False,
            )


def _error(function: Callable, arguments: tuple[Any, ...]) -> ValueError | None:
    """What tracing raises, with the user's own frames."""
    try:
        jax.eval_shape(_anew(function), *arguments)
    except ValueError as error:
        return error
    return None


def _functions(subject: Subject) -> Iterator[tuple[str, Callable, tuple[Any, ...]]]:
    key = base.key_shape()
    yield "reset", subject.pure.reset, (key,)
    yield "step", subject.pure.step, (key, subject.first[0], subject.action_shape)


def _anew(function: Callable) -> Callable:
    """The same function to Python and another one to JAX, which would remember its trace."""
    return lambda *arguments: function(*arguments)


def _text(jaxpr: Any) -> str:
    """Without addresses of Python objects."""
    return re.sub(r"0x[0-9a-f]+", "", str(jaxpr))


def _equal(ones: Any, twos: Any) -> bool:
    def numbers(leaf: Any) -> np.ndarray:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return len(ones) == len(twos) and all(
        np.array_equal(numbers(one), numbers(two)) for one, two in zip(ones, twos, strict=True)
    )


def _timesteps(subject: Subject) -> tuple[tuple[str, TimeStep], ...]:
    return ("reset", subject.first[1]), ("step", subject.after[1])


def _leaves(returned: Any) -> dict[str, Any]:
    """Path -> leaf of what `reset` or `step` returns: `env_state['step']`, `TimeStep.obs`."""
    return {
        f"{part}{jax.tree_util.keystr(path)}": leaf
        for part, tree in zip(("env_state", "TimeStep"), returned, strict=True)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


RETURNS = (Check("reset and step can be compiled", _returns),)
RECORDS = (
    Check("TimeStep: shapes", _shapes),
    Check("TimeStep: types", _dtypes),
    Check("TimeStep: metrics", _metrics),
    Check("step returns what reset returns", _structure),
)
"""What must hold before anything can be played."""

CHECKS = (
    Check("no weak types", _weak_types),
    Check("no side effects", _pure),
    Check("no accidental broadcasting", _ranks),
)
