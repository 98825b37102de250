"""The conformance suite: checks that an environment satisfies its contract."""

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

_IMPORT = "Config and make"


class Conformance(NamedTuple):
    """Results of the conformance suite for one environment.

    Attributes:
      env: its name.
      results: one per check, in order.
    """

    env: str
    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not any(result.status == "failed" for result in self.results)

    def failures(self) -> tuple[str, ...]:
        """Returns one line per contract violation."""
        findings = (finding for result in self.results for finding in result.findings)
        return tuple(finding.line() for finding in findings if finding.fails)

    def summary(self) -> dict[str, Any]:
        """Returns the fields of `repr`: verdict, number of checks by status, failures."""
        counts = collections.Counter(result.status for result in self.results)
        fields = {"env": self.env, "passed": self.passed, "checks": dict(counts)}
        return {**fields, "failures": "; ".join(self.failures())} if not self.passed else fields

    __repr__, _repr_html_ = reprs.text, reprs.html

    def to_json(self) -> str:
        """Returns one line of JSON: name, verdict, and every check with its findings."""
        checks = [
            {**result._asdict(), "findings": [finding._asdict() for finding in result.findings]}
            for result in self.results
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
    """Checks that an environment satisfies its contract; continues after a failure if possible.

    Args:
      env: name of a built-in environment, dotted path of your own module, or an `Env` or `HostEnv`.
      options: of the module's `Config`.
      episodes: environments played in a batch with random actions; at least 2.
      seed: of the random play.
      skip: names of checks not to run; `compiled equals eager` takes longest.
    Returns:
      A `Conformance` with a result per check, `passed`, and `failures()`.
    Raises:
      ConfigError: no such module, unknown or invalid options, `options` together with an `Env`.
    """
    if episodes < 2:
        raise config.ConfigError(f"check-env: episodes={episodes}; allowed: 2 or more")
    if isinstance(env, envs.Env | envs.HostEnv):
        if options:
            raise config.ConfigError(
                f"check-env: an Env has its options already, got {dict(options)}; pass the dotted "
                "path of its module instead"
            )
        subject = Subject(env, lambda: env, None, episodes, seed)
        return Conformance(env.spec.name, _run_checks(subject, skip))
    module, failure = _import(env)
    if failure is None:
        cfg = config.load({"env": {"name": env, "options": options or {}}}).env.options
        folder = pathlib.Path(module.__file__ or ".").parent
        made, failure = _make(module, cfg, folder)
    if failure is not None:
        not_run = (CheckResult(c.name, "not run") for stage in _STAGES for c in stage.checks)
        return Conformance(env, (CheckResult(_IMPORT, "failed", (failure,)), *not_run))
    subject = Subject(made, lambda: module.make(cfg), folder, episodes, seed)
    return Conformance(made.spec.name, _run_checks(subject, skip))


def _import(name: str) -> tuple[Any, Finding | None]:
    """(module, None), or (None, the violation)."""
    try:
        module = components.find("envs", name)
    except components.ComponentError as error:
        if " has no " not in str(error):
            raise config.ConfigError(f"check-env: {name!r}: {error}") from error
        fix = "write class Config(config.Model) and def make(cfg)"
        return None, Finding("module", str(error), "Config and make", fix)
    except Exception as error:  # user code may raise anything
        return None, base.from_exception("import", error, None)
    if not (isinstance(module.Config, type) and issubclass(module.Config, config.Model)):
        expected, fix = "a subclass of qmix_jax.config.Model", "write class Config(config.Model)"
        return None, Finding("module: Config", repr(module.Config), expected, fix)
    return module, None


def _make(module: Any, cfg: config.Model, folder: pathlib.Path) -> tuple[Any, Finding | None]:
    """(environment, None), or (None, the violation)."""
    try:
        env = module.make(cfg)
    except config.ConfigError:
        raise
    except Exception as error:  # user code may raise anything
        return None, base.from_exception("make", error, folder)
    if not isinstance(env, envs.Env | envs.HostEnv):
        fix = "return envs.base.team_env(spec, reset, step)"
        return None, Finding("make", type(env).__name__, "an envs.base.Env", fix)
    if not isinstance(env.spec, EnvSpec):
        expected = "a qmix_jax.types.EnvSpec"
        return None, Finding("make: spec", type(env.spec).__name__, expected, "build an EnvSpec")
    return env, None


class _Stage(NamedTuple):
    """Checks, and the earlier checks whose failure prevents them."""

    checks: Sequence[Check]
    needs: Sequence[str] = ()


def _names(checks: Sequence[Check]) -> tuple[str, ...]:
    return tuple(check.name for check in checks)


_SIZES = ("spec: agents", "spec: actions", "spec: observations", "spec: sizes")
_CALLABLE = (*_SIZES, *_names(traced.CALLS))
_HOST_CALLABLE = (*_SIZES, *_names(host_stepped.CALLS))
_RECORDS = _names(traced.RECORDS)
_STAGES = (
    _Stage(static.CHECKS),
    _Stage(traced.CALLS, _SIZES),
    _Stage(traced.RECORDS, _CALLABLE),
    _Stage(traced.CHECKS, _CALLABLE),
    _Stage(simulated.CHECKS, (*_CALLABLE, *_RECORDS)),
)
_HOST_STAGES = (
    _Stage(static.CHECKS),
    _Stage(host_stepped.CALLS, _SIZES),
    _Stage(traced.RECORDS, _HOST_CALLABLE),
    _Stage((*host_stepped.CHECKS, *simulated.HOST_CHECKS), (*_HOST_CALLABLE, *_RECORDS)),
)


def _run_checks(subject: Subject, skip: Sequence[str]) -> tuple[CheckResult, ...]:
    results = [CheckResult(_IMPORT, "passed")]
    for stage in _HOST_STAGES if isinstance(subject.env, envs.HostEnv) else _STAGES:
        broken = {result.name for result in results if result.status in ("failed", "not run")}
        skipped = {*skip} | (set(_names(stage.checks)) if broken & {*stage.needs} else set())
        results += [
            CheckResult(check.name, "not run")
            if check.name in skipped
            else base.run_check(check, subject)
            for check in stage.checks
        ]
    return tuple(results)
