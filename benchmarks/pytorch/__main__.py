"""`python -m benchmarks.pytorch env=smax env_steps=50_000 learner.gamma=0.9 ...`: trains and times.

Settings are the fields of `train.Settings`, as YAML values, or all of them as one JSON object.
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
    """Prints what `train.run` returns as one JSON line; 2 and one line for a wrong setting."""
    try:
        chosen = settings(arguments)
    except (TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(train.run(chosen)))
    return 0


def settings(arguments: Sequence[str]) -> train.Settings:
    """Settings from `key=value` and `group.key=value` texts, or from one JSON object.

    Raises: TypeError for an unknown key, ValueError for a value or text that does not fit.
    """
    given: dict[str, Any] = {}
    for text in arguments:
        key, equals, value = text.partition("=")
        if text.startswith("{"):
            given |= json.loads(text)
        elif equals:
            group, _, name = key.rpartition(".")
            target = given.setdefault(group, {}) if group else given
            target[name] = _value(value)
        else:
            raise ValueError(f"setting {text!r}: give key=value")
    groups = {"widths": networks.Widths, "learner": learner.Config}
    made = {name: make(**given.pop(name, {})) for name, make in groups.items()}
    return train.Settings(**given, **made)


def _value(text: str) -> Any:
    value = yaml.safe_load(text)
    try:
        return float(value) if isinstance(value, str) else value  # YAML reads 1e-3 as a text
    except ValueError:
        return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
