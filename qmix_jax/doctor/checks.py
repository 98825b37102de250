"""The result of one check of `qmix-jax doctor`."""

from typing import NamedTuple

OK, WARN, FAIL = "ok", "warn", "fail"


class Diagnostic(NamedTuple):
    """Attributes:
    section: heading that it belongs to.
    name: what was checked.
    status: `ok`; `warn`: works, but slower or with other numbers than elsewhere; `fail`: broken.
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
    """A diagnostic that is ok if `passed`, else has the status `otherwise` and a fix."""
    return Diagnostic(section, name, OK if passed else otherwise, message, "" if passed else fix)
