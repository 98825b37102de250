"""Arguments that the commands share: the parser, `key=value`, and Hydra's options."""

import argparse
import functools
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from hydra import errors
from hydra.core.override_parser import overrides_parser

from qmix_jax import config
from qmix_jax.cli import composition


class Parser(argparse.ArgumentParser):
    """The parser of a command; a mistake raises ConfigError."""

    def __init__(self, command: str, description: str, usage: str, examples: str) -> None:
        """Args:
        command: name of the command.
        description: one or two sentences.
        usage: arguments of the command.
        examples: a line per example.
        """
        width = min(100, shutil.get_terminal_size().columns)
        super().__init__(
            prog=f"qmix-jax {command}",
            description="\n".join(textwrap.fill(line, 88) for line in description.split("\n")),
            usage=f"qmix-jax {command} {usage}",
            epilog=f"examples:\n{examples.rstrip()}",
            add_help=False,  # added below
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=functools.partial(
                argparse.RawDescriptionHelpFormatter, max_help_position=32, width=width
            ),
        )
        self.argument = self.add_argument_group("arguments").add_argument
        self.option = self.add_argument_group("options").add_argument
        self.option("-h", "--help", action="help", help="print this help and exit")

    def error(self, message: str) -> NoReturn:
        raise config.ConfigError(f"command line: {message}; see {self.prog} --help")


def add_hydra_options(parser: Parser) -> None:
    """Adds overrides and the options of Hydra 1.3."""
    parser.argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="group=choice, key=value",
        help="choices of config groups, and values of dotted keys",
    )
    group = parser.add_argument_group("options of Hydra")

    def add(*names: str, help: str, **settings: Any) -> None:
        kind = {} if "metavar" in settings else {"action": "store_true"}
        group.add_argument(*names, help=help, default=None, **kind, **settings)

    add("-m", "--multirun", help="one run per combination of comma-separated values")
    add("-cd", "--config-dir", metavar="DIR", help="also search your own folder for YAML files")
    add("-cp", "--config-path", metavar="DIR", help="search your own folder first")
    add("-cn", "--config-name", metavar="NAME", help="root YAML file (default: config)")
    add(
        "-c", "--cfg", metavar="WHAT", choices=("job", "hydra", "all"),
        help="print a configuration and stop: job, hydra or all",
    )  # fmt: skip
    add("-p", "--package", metavar="KEY", help="with --cfg: print one section")
    add("--resolve", help="with --cfg: resolve interpolations")
    add(
        "-i", "--info", metavar="TOPIC", nargs="?", const="all",
        help="print how the configuration is composed: all, config, defaults, defaults-tree, "
        "plugins or searchpath",
    )  # fmt: skip
    add("-r", "--run", help="a single run (the default)")
    add("-sc", "--shell-completion", help="install shell completion (see --hydra-help)")
    add("--hydra-help", help="print Hydra's help and stop")
    group.add_argument("--experimental-rerun", default=None, help=argparse.SUPPRESS)


def sources(options: argparse.Namespace) -> composition.Sources:
    """Returns the folders and the root that Hydra's options name."""
    name = options.config_name or composition.PRIMARY
    return composition.Sources(options.config_dir, options.config_path, name)


def check_hydra_options(options: argparse.Namespace) -> None:
    """Raises: ConfigError for options that contradict each other or are not supported."""
    modes = ("run", "multirun", "cfg", "info", "shell_completion")
    if sum(bool(getattr(options, mode)) for mode in modes) > 1:
        message = "--run, --multirun, --cfg, --info and --shell-completion exclude each other"
    elif options.config_dir and options.config_path:
        message = "--config-dir and --config-path exclude each other; give one"
    elif options.resolve and options.cfg is None:
        message = "--resolve belongs to --cfg; give both or neither"
    elif options.experimental_rerun is not None:
        message = "--experimental-rerun needs files that are not written; use qmix-jax rerun DIR"
    else:
        return
    raise config.ConfigError(f"command line: {message}")


def hydra_options(options: argparse.Namespace) -> list[str]:
    """Returns the options for `hydra.main`, without those that `sources` reads."""
    flags = ("multirun", "run", "resolve", "hydra_help", "shell_completion")
    arguments = [f"--{name.replace('_', '-')}" for name in flags if getattr(options, name)]
    for name in ("cfg", "package", "info"):
        if (value := getattr(options, name)) is not None:
            arguments += [f"--{name}", value]
    return arguments


def values(overrides: Sequence[str]) -> dict[str, Any]:
    """Reads `key=value` in Hydra's grammar, one value per key.

    Raises: ConfigError for anything else.
    """
    parsed = {}
    for text in overrides:
        if "=" not in text:
            raise config.ConfigError(
                f"command line: {text!r} is not key=value; give one DIR, then key=value"
            )
        try:
            override = overrides_parser.OverridesParser.create().parse_override(text)
        except errors.HydraException as error:
            message = " ".join(str(error).split())
            raise config.ConfigError(f"command line: {text!r}: {message}") from error
        if override.is_sweep_override() or override.is_hydra_override():
            raise config.ConfigError(
                f"command line: {text!r}: give one value per key, and no key of Hydra"
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
