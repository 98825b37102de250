"""Arguments that commands share: the parser, overrides and `key=value`."""

import argparse
import functools
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from hydra import errors
from hydra.core.override_parser import overrides_parser

from qmix_jax import config
from qmix_jax.cli import composition


class Parser(argparse.ArgumentParser):
    """The parser of a command; a mistake raises ConfigError."""

    def __init__(self, command: str, description: str, usage: str, examples: str) -> None:
        """Makes a parser with the option `--help`.

        Args:
          command: name of the command.
          description: one or two sentences.
          usage: arguments of the command.
          examples: a line per example.
        """
        width = min(90, shutil.get_terminal_size().columns)
        super().__init__(
            prog=f"qmix-jax {command}",
            description="\n".join(
                textwrap.fill(line, 88, break_on_hyphens=False) for line in description.split("\n")
            ),
            usage=f"qmix-jax {command} {usage}",
            epilog=f"examples:\n{examples.rstrip()}",
            add_help=False,  # added below
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=functools.partial(
                argparse.RawDescriptionHelpFormatter, max_help_position=32, width=width
            ),
        )
        self._positional = self.add_argument_group("arguments")
        self._optional = self.add_argument_group("options")
        self._optional.add_argument("-h", "--help", action="help", help="print this help and exit")

    def argument(self, name: str, metavar: str, help: str, **settings: Any) -> None:
        """Adds a positional argument, or several."""
        self._positional.add_argument(name, metavar=metavar, help=help, **settings)

    def overrides(self, help: str, metavar: str = "key=value") -> None:
        """Adds the overrides, an empty list by default."""
        self.argument("overrides", metavar, help, nargs="*", default=[])

    def option(self, name: str, metavar: str, help: str, **settings: Any) -> None:
        """Adds an option with a value; without a default it is absent if not given."""
        self._optional.add_argument(name, metavar=metavar, help=help, **settings)

    def flag(self, name: str, help: str) -> None:
        """Adds an option without a value, False by default."""
        self._optional.add_argument(name, action="store_true", default=False, help=help)

    def error(self, message: str) -> NoReturn:
        raise config.ConfigError(f"command line: {message}; see {self.prog} --help")


def add_overrides(parser: Parser) -> Callable[..., None]:
    """Adds overrides, and the options of Hydra that select YAML files and jobs.

    Returns:
      A function that adds further options of Hydra: flags, or with `metavar` options with values.
    """
    parser.overrides("choices of config groups, values of dotted keys", "group=choice, key=value")
    group = parser.add_argument_group("options of Hydra")

    def add(*names: str, help: str, **settings: Any) -> None:
        kind = {} if "metavar" in settings else {"action": "store_true"}
        group.add_argument(*names, help=help, default=None, **kind, **settings)

    add("-m", "--multirun", help="one run per combination of comma-separated values")
    add("-cd", "--config-dir", metavar="DIR", help="search this folder for YAML files too")
    add("-cp", "--config-path", metavar="DIR", help="search this folder first")
    add("-cn", "--config-name", metavar="NAME", help="root YAML file (default: config)")
    return add


def sources(options: argparse.Namespace) -> composition.Sources:
    """Returns the folders and the root file that Hydra's options select."""
    name = options.config_name or composition.PRIMARY
    return composition.Sources(options.config_dir, options.config_path, name)


def values(overrides: Sequence[str]) -> dict[str, Any]:
    """Reads `key=value` in Hydra's grammar, one value per key.

    Raises: ConfigError for anything else.
    """
    parsed = {}
    for text in overrides:
        if "=" not in text:
            raise config.ConfigError(
                f"command line: {text!r} is not key=value; give a single DIR, then key=value"
            )
        try:
            override = overrides_parser.OverridesParser.create().parse_override(text)
        except errors.HydraException as error:
            message = " ".join(str(error).split())
            raise config.ConfigError(f"command line: {text!r}: {message}") from error
        if override.is_sweep_override() or override.is_hydra_override():
            raise config.ConfigError(
                f"command line: {text!r}: give one value per key, and no key of `hydra`"
            )
        parsed[override.key_or_group] = override.value()
    return parsed


def names(text: str) -> tuple[str, ...]:
    """Reads a comma-separated list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def integer_or(word: str) -> Any:
    """Returns a type of argparse: an integer, or this word."""

    def integer(text: str) -> int | str:
        return word if text == word else int(text)

    integer.__name__ = f"number or {word!r}"  # argparse prints it: "invalid ... value"
    return integer


def members(text: str) -> str | tuple[int, ...]:
    """Reads `best` or a comma-separated list of members."""
    return text if text == "best" else tuple(map(int, names(text)))
