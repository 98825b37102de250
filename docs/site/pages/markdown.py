"""Markdown from plain text and values."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

_CODE = re.compile(r"(`+[^`]*`+)")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table of Markdown cells; pipes outside code are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def prose(text: str) -> str:
    """Returns docstring text as Markdown; outside backticks it is literal."""
    parts = _CODE.split(text)
    return "".join(part if i % 2 else _literal(part) for i, part in enumerate(parts))


def paragraphs(text: str) -> str:
    """Returns several paragraphs as Markdown; indented ones are formulas and become code."""
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(_block(block) for block in blocks)


def anchor(name: str) -> str:
    """Returns a target for links to `#name`."""
    return f'<a id="{name}"></a>'


def code(value: Any) -> str:
    """Returns a plain value as in YAML, in backticks."""
    return f"`{value_text(value)}`"


def value_text(value: Any) -> str:
    """`null`, `true`, `2.0`, `[32, 32]`, `{}`, text without quotes."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, float) and value.is_integer() and abs(value) >= 1e4:
        return f"{int(value):_}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:_}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {value_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(value_text, value)) + "]"
    return json.dumps(value)


def _cell(text: str) -> str:
    parts = _CODE.split(" ".join(text.split()))
    return "".join(part if i % 2 else part.replace("|", "\\|") for i, part in enumerate(parts))


def _literal(text: str) -> str:
    return re.sub(r"([*<>\[\]])", r"\\\1", text).replace("\\<", "&lt;").replace("\\>", "&gt;")


def _block(block: str) -> str:
    lines = block.split("\n")
    if all(line.startswith("    ") for line in lines if line.strip()):
        body = "\n".join(line[4:] for line in lines)
        return f"```text\n{body}\n```"
    return prose("\n".join(line.strip() for line in lines))
