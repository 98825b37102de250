"""What a diagnosis is made of: one check, its verdict, and how to put it right."""

from typing import NamedTuple

OK, WARN, FAIL = "ok", "warn", "fail"


class Diagnostic(NamedTuple):
    """Attributes:
    section: heading that it belongs to.
    name: what was looked at.
    status: `ok`; `warn`: works, but slower than it could, or with other numbers; `fail`: broken.
    found: what there is.
    fix: what to do; empty for `ok`.
    """

    section: str
    name: str
    status: str
    found: str
    fix: str = ""
