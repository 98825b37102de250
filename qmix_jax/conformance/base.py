"""Checks, their findings, and the environment they examine."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax

from qmix_jax import components
from qmix_jax.conformance import play
from qmix_jax.envs import base as envs
from qmix_jax.types import EnvSpec

Status = Literal["passed", "noted", "failed", "not run"]


class Finding(NamedTuple):
    """A contract violation, or a note about something legal but suspicious.

    Attributes:
      where: the part of the environment, for example `step: TimeStep.obs`.
      got: the observed value.  expected: the required value.  fix: how to correct it.
      fails: False for a note, which has no `expected`.
    """

    where: str
    got: str
    expected: str
    fix: str
    fails: bool = True

    def line(self) -> str:
        """Returns `where: got X; expected Y; fix` in one line; for a note, `where: X; fix`."""
        text = f"got {self.got}; expected {self.expected}" if self.fails else self.got
        return " ".join(f"{self.where}: {text}; {self.fix}".split())


def note(where: str, message: str, advice: str) -> Finding:
    """Returns a finding that does not fail its check."""
    return Finding(where, message, "", advice, fails=False)


class Check(NamedTuple):
    """One check of an environment.

    Attributes:
      name: in reports and in `check_env(skip=...)`.
      run: `(Subject) -> findings`; the check passes without findings.
    """

    name: str
    run: Callable[["Subject"], Iterable[Finding]]


class CheckResult(NamedTuple):
    """Outcome of a check."""

    name: str
    status: Status
    findings: tuple[Finding, ...] = ()


@dataclasses.dataclass
class Subject:
    """An environment under examination; expensive results are computed on first use and cached.

    Attributes:
      env: the environment.
      remake: makes it again with the same options.
      folder: of the module's source, to locate errors in the user's code; None if unknown.
      n_episodes: environments played in a batch.
      seed: of the random play.
    """

    env: envs.Env | envs.HostEnv
    remake: Callable[[], envs.Env | envs.HostEnv]
    folder: pathlib.Path | None
    n_episodes: int
    seed: int

    @property
    def spec(self) -> EnvSpec:
        """The environment's spec."""
        return self.env.spec

    @property
    def jax_env(self) -> envs.Env:
        """The environment, for checks that apply to compiled ones only."""
        assert isinstance(self.env, envs.Env)
        return self.env

    @functools.cached_property
    def reset_result(self) -> Any:
        """(env_state, TimeStep) of `reset`: shapes, or arrays and `()` of a host environment."""
        if isinstance(self.env, envs.HostEnv):
            return (), self._first_timesteps[0]
        return jax.eval_shape(self.env.reset, key_shape())

    @functools.cached_property
    def step_result(self) -> Any:
        """(env_state, TimeStep) of `step`, as `reset_result`."""
        if isinstance(self.env, envs.HostEnv):
            return (), self._first_timesteps[1]
        return jax.eval_shape(self.env.step, key_shape(), self.reset_result[0], self.action_shape)

    @functools.cached_property
    def _first_timesteps(self) -> Any:
        assert isinstance(self.env, envs.HostEnv)
        return play.first_timesteps(self.env, self.seed)

    @property
    def action_shape(self) -> jax.ShapeDtypeStruct:
        """Shape of a joint action."""
        return jax.ShapeDtypeStruct(self.spec.actions.shape, self.spec.actions.dtype)

    @functools.cached_property
    def reset(self) -> Callable[..., Any]:
        """The environment's `reset`, compiled."""
        return play.fast_jit(self.jax_env.reset)

    @functools.cached_property
    def step(self) -> Callable[..., Any]:
        """The environment's `step`, compiled."""
        return play.fast_jit(self.jax_env.step)

    @functools.cached_property
    def playthrough(self) -> play.Playthrough:
        """Random play."""
        if isinstance(self.env, envs.HostEnv):
            return play.on_host(self.env, self.seed)
        return play.compiled(self.env, self.n_episodes, self.seed)


def key_shape() -> Any:
    """Returns the shape of a typed key."""
    return jax.eval_shape(jax.random.key, 0)


def run_check(check: Check, subject: Subject) -> CheckResult:
    """Runs a check; an exception fails it with a finding."""
    try:
        findings = tuple(check.run(subject))
    except Exception as error:  # user code may raise anything
        findings = (from_exception(check.name, error, subject.folder),)
    if any(finding.fails for finding in findings):
        return CheckResult(check.name, "failed", findings)
    return CheckResult(check.name, "noted" if findings else "passed", findings)


_FIXES: dict[type[Exception], str] = {
    jax.errors.TracerBoolConversionError: "a Python `if`, `while`, `and` or `not` cannot test a "
    "traced value; use jnp.where, & | ~ or jax.lax.cond",
    jax.errors.TracerArrayConversionError: "numpy cannot take traced values; use jax.numpy",
    jax.errors.TracerIntegerConversionError: "a traced value cannot be a Python index; index a "
    "jax.numpy array with it",
    jax.errors.UnexpectedTracerError: "a traced value was stored outside the function; store it in "
    "the env state",
    jax.errors.NonConcreteBooleanIndexError: "the size of x[mask] is unknown at compile time; use "
    "jnp.where(mask, x, ...)",
    jax.errors.ConcretizationTypeError: "int(), float(), range() and shapes cannot depend on a "
    "traced value; use jnp.int32, jnp.float32, jax.lax.fori_loop and fixed sizes",
}
"""Error -> fix; the first matching class applies, so base classes come last."""


def from_exception(where: str, error: Exception, folder: pathlib.Path | None) -> Finding:
    """Returns the finding for an exception raised by user code."""
    fixes = (fix for kind, fix in _FIXES.items() if isinstance(error, kind))
    line = components.line_of(error, folder) if folder else ""
    return Finding(
        where=f"{where} ({line})" if line else where,
        got=components.describe(error),
        expected="no exception",
        fix=next(fixes, "correct the code that raises it"),
    )
