"""Short `repr` and notebook table of the records that users print.

A record defines `summary()`, the fields a reader needs, and takes both functions as its methods:

    __repr__, _repr_html_ = reprs.text, reprs.html
"""

import html as escaping
from collections.abc import Mapping
from typing import Any, Protocol

_MAX_CHARACTERS = 800
_MAX_VALUE = 200


class Summarised(Protocol):
    """A record that chooses the fields to print."""

    def summary(self) -> Mapping[str, Any]:
        """Name -> value of the fields to print."""
        ...


def text(self: Summarised) -> str:
    """`Name(key=value, ...)` in one line; fields beyond about 800 characters are only counted."""
    fields = [f"{name}={_plain(value)}" for name, value in self.summary().items()]
    total, fitting = 0, []
    for field in fields:
        total += len(field) + 2
        if total > _MAX_CHARACTERS:
            fitting.append(f"... and {len(fields) - len(fitting)} more")
            break
        fitting.append(field)
    return f"{type(self).__name__}({', '.join(fitting)})"


def html(self: Summarised) -> str:
    """A table of names and values, with the type as its caption."""
    cell = '<td style="text-align: left">'
    rows = "".join(
        f"<tr>{cell}<b>{escaping.escape(name)}</b></td>"
        f"{cell}{escaping.escape(_plain(value))}</td></tr>"
        for name, value in self.summary().items()
    )
    caption = escaping.escape(type(self).__name__)
    return f"<table><caption><b>{caption}</b></caption><tbody>{rows}</tbody></table>"


def _plain(value: Any) -> str:
    line = f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
    return line if len(line) <= _MAX_VALUE else f"{line[:_MAX_VALUE]}..."
