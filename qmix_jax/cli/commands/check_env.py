"""`qmix-jax check-env`."""

import argparse
from typing import Any

from qmix_jax import components, config
from qmix_jax.cli import arguments, composition

SUMMARY = "check an environment against the contract of `Env`"

_EXAMPLES = """\
  qmix-jax check-env smax scenario=2s3z
  qmix-jax check-env my_lab.rescue size=4          the module my_lab/rescue.py
"""


def parser() -> arguments.Parser:
    command = arguments.Parser(
        "check-env",
        "Check an environment and explain each contract violation. Exit code 1 if there is any.",
        "NAME [key=value ...] [--json]",
        _EXAMPLES,
    )
    command.argument(
        "arguments",
        "NAME key=value",
        "a choice of env, or the dotted path of your own module; then options of its Config",
        nargs="*",
        default=[],
    )
    command.flag("--json", "print JSON instead of a table")
    return command


def run(options: argparse.Namespace) -> int:
    names = [argument for argument in options.arguments if "=" not in argument]
    if len(names) != 1:
        raise config.ConfigError(
            f"check-env: got {len(names)} names; give one, a choice of env or the dotted path of "
            "your own module, such as my_lab.rescue"
        )
    name, env_options = _component(names[0])
    pairs = arguments.values([text for text in options.arguments if "=" in text])
    for path, value in pairs.items():
        _set(env_options, path.removeprefix("env.options."), value)
    from qmix_jax.conformance import build, table  # imports JAX, for which `--help` need not wait

    conformance = build.check_env(name, env_options)
    if options.json:
        print(conformance.to_json())
    else:
        table.table(conformance)
    return 0 if conformance.passed else 1


def _component(name: str) -> tuple[str, dict[str, Any]]:
    """Returns component and options of a choice of `env`, a component, or a dotted path.

    Raises: ConfigError for any other name.
    """
    choices = composition.choices()["env"]
    known = {*choices, *components.names("envs")} - {"custom"}
    if "." not in name and name not in known:
        raise config.ConfigError(
            f"check-env: unknown {name!r}; {config.suggest(name, sorted(known))}, or the dotted "
            f"path of your own module, such as my_lab.{name}"
        )
    if name not in choices:
        return name, {}
    env = composition.compose(f"env={name}")["env"]
    return env["name"], env["options"]


def _set(options: dict[str, Any], path: str, value: Any) -> None:
    """Sets a dotted key in nested options."""
    *parents, leaf = path.split(".")
    for parent in parents:
        options = options.setdefault(parent, {})
        if not isinstance(options, dict):
            raise config.ConfigError(
                f"check-env: {path!r}: {parent!r} is a single value; set {parent}=..."
            )
    options[leaf] = value
