"""The comments of the YAML files: what each key means, with its unit."""

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
      about: the text of its heading.
      values: dotted key -> value, leaves only.
      comments: dotted key -> comment, sections too.
    """

    about: str
    values: dict[str, object]
    comments: dict[str, str]


@functools.cache
def read(name: str) -> File:
    """A file by its path below `configs/` without ending, such as `trainer/modern`.

    Keys are dotted from the root of the configuration where the file says `@package _global_`,
    and from the group's own section otherwise.
    """
    text = (composition.directory() / f"{name}.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    heading = [line for line in lines[: _first_key(lines)] if "@package" not in line]
    about = " ".join(line.removeprefix("#").strip() for line in heading)
    prefix = "" if "@package _global_" in text or "/" not in name else _section(name)
    loaded = {key: value for key, value in yaml.safe_load(text).items() if key not in _NO_KEYS}
    values = {prefix + key: value for key, value in flatten(loaded).items()}
    return File(about, values, {prefix + key: said for key, said in _comments(lines).items()})


@functools.cache
def files(group: str) -> dict[str, File]:
    """The files of a config group by name, without those that wait for a user's own module."""
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


def _section(name: str) -> str:
    return name.rpartition("/")[0].replace("/", ".") + "."


def _first_key(lines: list[str]) -> int:
    return next(i for i, line in enumerate(lines) if line and not line.startswith("#"))


def _comments(lines: list[str]) -> dict[str, str]:
    """A comment is on the key's own line."""
    path: list[tuple[int, str]] = []
    found = {}
    for line in lines:
        match = _LINE.match(line)
        if match is None or line.lstrip().startswith("#"):
            continue
        indent = len(match["indent"])
        path = [entry for entry in path if entry[0] < indent] + [(indent, match["key"])]
        if match["comment"]:
            found[".".join(key for _, key in path)] = match["comment"].strip()
    return found
