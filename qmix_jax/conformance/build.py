"""Asks an environment everything the trainer relies on."""

import collections
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qmix_jax import components, config, reprs
from qmix_jax.conformance import base, host_stepped, simulated, static, traced
from qmix_jax.conformance.base import Check, CheckResult, Finding, Subject
from qmix_jax.envs import base as envs
from qmix_jax.types import EnvSpec

_FOUND = "Config, and make returns an environment"


class Conformance(NamedTuple):
    """How an environment keeps to its contract.

    Attributes:
      env: its name.
      answers: of all checks, in order.
    """

    env: str
    answers: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """No check failed."""
        return not any(answer.status == "failed" for answer in self.answers)

    def failures(self) -> tuple[str, ...]:
        """A line for everything that is wrong."""
        return tuple(
            finding.line()
            for answer in self.answers
            for finding in answer.findings
            if finding.fails
        )

    def summary(self) -> dict[str, Any]:
        """Fields of `repr`: the verdict, the number of checks by status, and the failures."""
        counts = collections.Counter(answer.status for answer in self.answers)
        fields = {"env": self.env, "passed": self.passed, "checks": dict(counts)}
        return {**fields, "failures": "; ".join(self.failures())} if not self.passed else fields

    __repr__, _repr_html_ = reprs.text, reprs.html

    def to_json(self) -> str:
        """One line: name, whether it passed, and every check with its findings."""
        checks = [
            {
                "name": answer.name,
                "status": answer.status,
                "findings": [finding._asdict() for finding in answer.findings],
            }
            for answer in self.answers
        ]
        return json.dumps({"env": self.env, "passed": self.passed, "checks": checks})


def check_env(
    env: str | envs.Env | envs.HostEnv,
    options: Mapping[str, Any] | None = None,
    *,
    episodes: int = 8,
    seed: int = 0,
    skip: Sequence[str] = (),
) -> Conformance:
    """Runs the conformance suite on an environment; it continues after a failure where it can.

    Args:
      env: name of an environment of the package, dotted path of a module of your own, or an `Env`
        or `HostEnv`.
      options: of the module's `Config`.
      episodes: environments that are played side by side, at random.
      seed: of the play.
      skip: names of checks not to run; `compiled as not compiled` takes longest.
    Returns:
      A `Conformance`: an answer per check, `passed`, and `failures()` as lines.
    Raises:
      ConfigError: no such module, options that it does not have or refuses, `options` of an `Env`.
    """
    if episodes < 2:
        raise config.ConfigError(f"check-env: episodes={episodes}; compare at least 2")
    if isinstance(env, envs.Env | envs.HostEnv):
        if options:
            raise config.ConfigError(
                f"check-env: an Env has its options already, got {dict(options)}; pass a module's "
                "dotted path instead"
            )
        subject = Subject(env, lambda: env, None, episodes, seed)
        return Conformance(env.spec.name, _examine(subject, skip))
    module, trouble = _import(env)
    if trouble is None:
        cfg = config.load({"env": {"name": env, "options": options or {}}}).env.options
        folder = pathlib.Path(module.__file__ or ".").parent
        made, trouble = _make(module, cfg, folder)
    if trouble is not None:
        return Conformance(env, _examine(trouble, skip))
    subject = Subject(made, lambda: module.make(cfg), folder, episodes, seed)
    return Conformance(made.spec.name, _examine(subject, skip))


def _import(name: str) -> tuple[Any, Finding | None]:
    """(module, what is wrong with it)."""
    try:
        module = components.find("envs", name)
    except components.ComponentError as error:
        if " has no " not in str(error):
            raise config.ConfigError(f"check-env: {name!r}: {error}") from error
        fix = "write class Config(config.Model) and def make(cfg)"
        return None, Finding("module", str(error), "Config and make", fix)
    except Exception as error:  # whatever the user's module raises
        return None, base.of_exception("import", error, None)
    if not (isinstance(module.Config, type) and issubclass(module.Config, config.Model)):
        wanted = "a subclass of qmix_jax.config.Model"
        fix = "write class Config(config.Model)"
        return None, Finding("module: Config", repr(module.Config), wanted, fix)
    return module, None


def _make(module: Any, cfg: config.Model, folder: pathlib.Path) -> tuple[Any, Finding | None]:
    """(environment, what is wrong with it)."""
    try:
        env = module.make(cfg)
    except config.ConfigError:
        raise
    except Exception as error:  # whatever the user's code raises
        return None, base.of_exception("make", error, folder)
    if not isinstance(env, envs.Env | envs.HostEnv):
        wanted, fix = "an envs.base.Env", "return envs.base.team_env(spec, reset, step)"
        return None, Finding("make", type(env).__name__, wanted, fix)
    if not isinstance(env.spec, EnvSpec):
        wanted = "a qmix_jax.types.EnvSpec"
        return None, Finding("make: spec", type(env.spec).__name__, wanted, "build that")
    return env, None


class _Stage(NamedTuple):
    """Checks, and the names of those that must not have failed before."""

    checks: Sequence[Check]
    needs: tuple[str, ...]


_SIZES = ("spec: agents", "spec: actions", "spec: observations", "spec: sizes")
_RETURNS = tuple(check.name for check in traced.RETURNS)
_RECORDS = tuple(check.name for check in traced.RECORDS)
_STAGES = (
    _Stage(static.CHECKS, ()),
    _Stage(traced.RETURNS, _SIZES),
    _Stage(traced.RECORDS, (*_SIZES, *_RETURNS)),
    _Stage(traced.CHECKS, (*_SIZES, *_RETURNS)),
    _Stage(simulated.CHECKS, (*_SIZES, *_RETURNS, *_RECORDS)),
)
_HOSTED_RETURNS = tuple(check.name for check in host_stepped.RETURNS)
_HOSTED = (
    _Stage(static.CHECKS, ()),
    _Stage(host_stepped.RETURNS, _SIZES),
    _Stage(traced.RECORDS, (*_SIZES, *_HOSTED_RETURNS)),
    _Stage((*host_stepped.CHECKS, *simulated.HOSTED), (*_SIZES, *_HOSTED_RETURNS, *_RECORDS)),
)
"""Of an environment that is stepped in Python."""


def _examine(subject: Subject | Finding, skip: Sequence[str]) -> tuple[CheckResult, ...]:
    """An answer per check; of what cannot be examined, that finding and no more."""
    if isinstance(subject, Finding):
        wrong = CheckResult(_FOUND, "failed", (subject,))
        return (wrong, *(CheckResult(c.name, "not run") for stage in _STAGES for c in stage.checks))
    answers = [CheckResult(_FOUND, "passed")]
    for stage in _HOSTED if isinstance(subject.env, envs.HostEnv) else _STAGES:
        broken = {answer.name for answer in answers if answer.status in ("failed", "not run")}
        runs = not broken & {*stage.needs}
        answers += [
            base.ask(check, subject)
            if runs and check.name not in skip
            else CheckResult(check.name, "not run")
            for check in stage.checks
        ]
    return tuple(answers)
