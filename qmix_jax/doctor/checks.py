"""The result of one check of `qmix-jax doctor`."""

from typing import NamedTuple

OK, WARN, FAIL = "ok", "warn", "fail"


class Diagnostic(NamedTuple):
    """Result of one check.

    Attributes:
      section: heading that it belongs to.
      name: what was checked.
      status: `ok`; `warn`: works, but is slower or gives other metrics; `fail`: broken.
      message: the result.
      fix: what to do; empty for `ok`.
    """

    section: str
    name: str
    status: str
    message: str
    fix: str = ""


def verdict(
    section: str, name: str, passed: bool, message: str, fix: str, otherwise: str = FAIL
) -> Diagnostic:
    """Returns a diagnostic: ok if `passed`, else with status `otherwise` and a fix."""
    return Diagnostic(section, name, OK if passed else otherwise, message, "" if passed else fix)
