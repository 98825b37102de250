"""What a check is: a question about an environment, and findings as its answer."""

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
    """One thing that is not as it should be.

    Attributes:
      where: the part of the environment, for example `step: TimeStep.obs`.
      got: what was found.  expected: what should be there.  fix: what to do about it.
      fails: False for a remark that breaks nothing.
    """

    where: str
    got: str
    expected: str
    fix: str
    fails: bool = True

    def line(self) -> str:
        """The finding as a sentence of one line; a remark does not speak of what is expected."""
        said = f"got {self.got}; expected {self.expected}" if self.fails else self.got
        text = f"{self.where}: {said}; {self.fix}"
        return " ".join(text.split())


class Check(NamedTuple):
    """Attributes:
    name: shown to people.
    run: `(Subject) -> findings`, none where all is well.
    """

    name: str
    run: Callable[["Subject"], Iterable[Finding]]


class CheckResult(NamedTuple):
    """What a check came to: `findings` say why where it did not pass."""

    name: str
    status: Status
    findings: tuple[Finding, ...] = ()


@dataclasses.dataclass
class Subject:
    """An environment under examination; what is expensive is computed once, when first asked for.

    Attributes:
      env: the bundle.
      remake: makes another one of the same options.
      folder: of the module's source, to name the user's own lines in errors; None if not known.
      n_episodes: environments that play side by side.
      seed: of their randomness.
    """

    env: envs.Env | envs.HostEnv
    remake: Callable[[], envs.Env | envs.HostEnv]
    folder: pathlib.Path | None
    n_episodes: int
    seed: int

    @property
    def spec(self) -> EnvSpec:
        """The environment's facts."""
        return self.env.spec

    @property
    def pure(self) -> envs.Env:
        """The environment, for checks of one that is compiled."""
        assert isinstance(self.env, envs.Env)
        return self.env

    @functools.cached_property
    def first(self) -> Any:
        """Shapes of what `reset` returns: (env_state, TimeStep)."""
        if isinstance(self.env, envs.HostEnv):
            return self._first_steps[0]
        return jax.eval_shape(self.env.reset, key_shape())

    @functools.cached_property
    def after(self) -> Any:
        """Shapes of what `step` returns: (env_state, TimeStep)."""
        if isinstance(self.env, envs.HostEnv):
            return self._first_steps[1]
        return jax.eval_shape(self.env.step, key_shape(), self.first[0], self.action_shape)

    @functools.cached_property
    def _first_steps(self) -> tuple[Any, Any]:
        """The same of an environment in Python, as arrays and with no env state."""
        assert isinstance(self.env, envs.HostEnv)
        first, after = play.first_steps(self.env, self.seed)
        return ((), first), ((), after)

    @property
    def action_shape(self) -> jax.ShapeDtypeStruct:
        """Of a joint action."""
        return jax.ShapeDtypeStruct(self.spec.actions.shape, self.spec.actions.dtype)

    @functools.cached_property
    def reset(self) -> Callable[..., Any]:
        """The environment's, compiled."""
        return play.compiled(self.pure.reset)

    @functools.cached_property
    def step(self) -> Callable[..., Any]:
        """The environment's, compiled."""
        return play.compiled(self.pure.step)

    @functools.cached_property
    def played(self) -> play.Playthrough:
        """Random play."""
        if isinstance(self.env, envs.HostEnv):
            return play.in_python(self.env, self.seed)
        return play.at_random(self.env, self.n_episodes, self.seed)


def key_shape() -> Any:
    """The shape of a typed key."""
    return jax.eval_shape(jax.random.key, 0)


def ask(check: Check, subject: Subject) -> CheckResult:
    """Runs a check; an exception is a finding too."""
    try:
        findings = tuple(check.run(subject))
    except Exception as error:  # whatever the user's code raises
        findings = (of_exception(check.name, error, subject.folder),)
    if any(finding.fails for finding in findings):
        return CheckResult(check.name, "failed", findings)
    return CheckResult(check.name, "noted" if findings else "passed", findings)


_HINTS: tuple[tuple[type[Exception], str], ...] = (
    (
        jax.errors.TracerBoolConversionError,
        "a Python `if`, `while`, `and` or `not` cannot look at a traced value; use jnp.where, & | "
        "~ or jax.lax.cond",
    ),
    (jax.errors.TracerArrayConversionError, "numpy cannot take traced values; use jax.numpy"),
    (
        jax.errors.TracerIntegerConversionError,
        "a traced value cannot be a Python index; index a jax.numpy array with it",
    ),
    (
        jax.errors.UnexpectedTracerError,
        "a traced value was kept outside of the function; keep it in the env state",
    ),
    (
        jax.errors.NonConcreteBooleanIndexError,
        "the size of x[mask] is not known when compiling; use jnp.where(mask, x, ...)",
    ),
    (
        jax.errors.ConcretizationTypeError,
        "int(), float(), range() and shapes cannot depend on a traced value; use jnp.int32, "
        "jnp.float32, jax.lax.fori_loop and fixed sizes",
    ),
)


def of_exception(where: str, error: Exception, folder: pathlib.Path | None) -> Finding:
    """What an exception of the user's code means."""
    hints = (hint for kind, hint in _HINTS if isinstance(error, kind))
    place = components.line_of(error, folder) if folder else ""
    return Finding(
        where=f"{where}{place and f' ({place})'}",
        got=components.describe(error),
        expected="no exception",
        fix=next(hints, "correct what raises it"),
    )
