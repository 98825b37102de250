"""Trains and times: `python -m benchmarks.pytorch env=smax env_steps=50_000 learner.gamma=0.9 ...`.

Settings are the fields of `train.Settings`, as YAML values or as a JSON object.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import yaml

try:
    from benchmarks.pytorch import learner, networks, train
except ModuleNotFoundError as missing:
    if missing.name != "torch":
        raise
    sys.exit("error: the PyTorch baseline needs the torch extra: pip install -e '.[torch]'")


def main(arguments: Sequence[str]) -> int:
    """Prints the result of `train.run` as one JSON line; returns 2 for an invalid setting."""
    try:
        parsed = settings(arguments)
    except (TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(train.run(parsed)))
    return 0


def settings(arguments: Sequence[str]) -> train.Settings:
    """Parses `key=value` and `group.key=value` arguments, or a JSON object.

    Raises: TypeError for an unknown key, ValueError for an invalid value or argument.
    """
    values: dict[str, Any] = {}
    for text in arguments:
        key, equals, value = text.partition("=")
        if text.startswith("{"):
            values |= json.loads(text)
        elif equals:
            group, _, name = key.rpartition(".")
            target = values.setdefault(group, {}) if group else values
            target[name] = _value(value)
        else:
            raise ValueError(f"setting {text!r}: expected key=value")
    groups = {"widths": networks.Widths, "learner": learner.Config}
    records = {name: make(**values.pop(name, {})) for name, make in groups.items()}
    return train.Settings(**values, **records)


def _value(text: str) -> Any:
    value = yaml.safe_load(text)
    try:
        return float(value) if isinstance(value, str) else value  # YAML reads 1e-3 as a string
    except ValueError:
        return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
