"""`qmix-jax check-env`: which environment, with which options."""

from collections.abc import Sequence
from typing import Any

import yaml

from qmix_jax import components, config
from qmix_jax.cli import composition


def run(arguments: Sequence[str]) -> int:
    """Checks an environment and prints what came of it.

    Args:
      arguments: the name, `key=value` options of its `Config`, and `--json`.
    Returns:
      0 where it keeps the contract, else 1.
    Raises:
      ConfigError: no such environment, or options that it does not have.
    """
    flags = [argument for argument in arguments if argument.startswith("-")]
    names = [argument for argument in arguments if argument not in flags and "=" not in argument]
    if unknown := [flag for flag in flags if flag != "--json"]:
        raise config.ConfigError(f"check-env: unknown flag {unknown[0]}; allowed: --json")
    if len(names) != 1:
        raise config.ConfigError(
            f"check-env: got {len(names)} names; give one: a choice of env, or the dotted path of "
            "your own module, such as my_lab.rescue size=4"
        )
    pairs = [argument for argument in arguments if argument not in flags and "=" in argument]
    name, options = _chosen(names[0])
    for pair in pairs:
        _put(options, pair)
    from qmix_jax.conformance import build, table  # they bring in JAX, `--help` need not wait

    found = build.check_env(name, options)
    if "--json" in flags:
        print(found.to_json())
    else:
        table.table(found)
    return 0 if found.passed else 1


def _chosen(name: str) -> tuple[str, dict[str, Any]]:
    """Component and options of a choice of the group `env`; another name is a component's own.

    Raises: ConfigError for a name that is neither.
    """
    known = {*composition.choices()["env"], *components.names("envs")} - {"custom"}
    if "." not in name and name not in known:
        raise config.ConfigError(
            f"check-env: unknown {name!r}; {config.suggest(name, sorted(known))}, or the dotted "
            f"path of your own module, such as my_lab.{name}"
        )
    if name not in composition.choices()["env"]:
        return name, {}
    env = composition.compose(f"env={name}")["env"]
    return env["name"], env["options"]


def _put(options: dict[str, Any], pair: str) -> None:
    """Sets `a.b=value` in nested options; the value is YAML."""
    path, _, text = pair.partition("=")
    *parents, leaf = path.removeprefix("+").removeprefix("env.options.").split(".")
    node = options
    for parent in parents:
        below = node.setdefault(parent, {})
        if not isinstance(below, dict):
            raise config.ConfigError(f"check-env: {pair!r}: {parent!r} is a value; set that")
        node = below
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise config.ConfigError(f"check-env: {pair!r} is not YAML: {said}") from error
