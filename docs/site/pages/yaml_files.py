"""The files of `configs/`: their values, and the comments that explain each key."""

import functools
import re
from typing import NamedTuple

import yaml

from qmix_jax.cli import composition

_LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^#]*?))?(?:  # (?P<comment>.*))?$")
_NO_KEYS = ("defaults", "_target_")


class File(NamedTuple):
    """A YAML file of `configs/`.

    Attributes:
      summary: the text of its heading.
      values: dotted key -> value, leaves only.
      comments: dotted key -> comment, sections included.
    """

    summary: str
    values: dict[str, object]
    comments: dict[str, str]


@functools.cache
def read(name: str) -> File:
    """Reads a file by its path below `configs/` without suffix, such as `trainer/modern`.

    Keys are dotted from the root of the configuration if the file says `@package _global_`, else
    from the section of its group.
    """
    text = (composition.directory() / f"{name}.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    heading = [line for line in lines[: _first_key(lines)] if "@package" not in line]
    summary = " ".join(line.removeprefix("#").strip() for line in heading)
    prefix = ""
    if "@package _global_" not in text and "/" in name:
        prefix = name.rpartition("/")[0].replace("/", ".") + "."
    loaded = {key: value for key, value in yaml.safe_load(text).items() if key not in _NO_KEYS}
    values = {prefix + key: value for key, value in flatten(loaded).items()}
    comments = {prefix + key: comment for key, comment in _comments(lines).items()}
    return File(summary, values, comments)


@functools.cache
def choices(group: str) -> dict[str, File]:
    """The files of a config group by name, without `custom`, which needs a user's module."""
    folder = composition.directory() / group
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    return {name: read(f"{group}/{name}") for name in names if name != "custom"}


def flatten(node: dict, prefix: str = "") -> dict[str, object]:
    """Dotted key -> value of every leaf; an empty mapping is a leaf."""
    flat: dict[str, object] = {}
    for key, value in node.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _first_key(lines: list[str]) -> int:
    return next(i for i, line in enumerate(lines) if line and not line.startswith("#"))


def _comments(lines: list[str]) -> dict[str, str]:
    """Dotted key -> the comment on its line."""
    path: list[tuple[int, str]] = []
    comments = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None or line.lstrip().startswith("#"):
            continue
        indent = len(match["indent"])
        path = [entry for entry in path if entry[0] < indent] + [(indent, match["key"])]
        if match["comment"]:
            comments[".".join(key for _, key in path)] = match["comment"].strip()
    return comments
