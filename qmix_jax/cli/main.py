"""The `qmix-jax` command.

Exit codes: 0 success; 1 training or a check failed; 2 a mistake in the arguments or the
configuration (one line on stderr). If a signal ended training early, after a checkpoint: 130 SIGINT
(Ctrl-C), 143 SIGTERM, 138 SIGUSR1.
"""

import os
import shlex
import sys
from collections.abc import Sequence

import qmix_jax
from qmix_jax import config
from qmix_jax.cli.commands import (
    baseline,
    check_env,
    doctor,
    evaluate,
    export,
    lab,
    plan,
    render,
    report,
    rerun,
    train,
    weights,
)

COMMANDS = {
    "train": train,
    "plan": plan,
    "baseline": baseline,
    "report": report,
    "evaluate": evaluate,
    "render": render,
    "export": export,
    "lab": lab,
    "weights": weights,
    "rerun": rerun,
    "check-env": check_env,
    "doctor": doctor,
}
"""Name -> module with `SUMMARY`, `parser()` and `run(options)`, which returns the exit code."""
_MEANT = {"resume": "resume=DIR", "sweep": "-m key=value,value ..."}
"""Name that is not a command -> arguments of `train` that do it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: without the program's name; None takes those of the process.
    Returns:
      The exit code.
    Raises:
      SystemExit: with the exit code, if Hydra or a job ends the process.
    """
    if arguments is None:
        arguments = sys.argv[1:]
        sys.path.append(os.getcwd())  # user-defined modules are imported from here
    try:
        return _dispatch(list(arguments))
    except config.ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def help_text(command: str | None = None) -> str:
    """Returns the help of a command, or the list of commands."""
    if command is not None:
        return COMMANDS[command].parser().format_help()
    commands = "\n".join(f"  {name:<10} {module.SUMMARY}" for name, module in COMMANDS.items())
    return f"""\
qmix-jax {qmix_jax.__version__}: QMIX and its family, trained end to end in JAX

usage: qmix-jax COMMAND [arguments]
       qmix-jax COMMAND --help
       qmix-jax --version

commands:
{commands}

examples:
  qmix-jax train                                 QMIX on SMAX 3m
  qmix-jax train experiment=two_step algo=vdn    a game with known values
  qmix-jax train --help                          all choices, and more examples
"""


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text(), end="")
        return 0
    if "--version" in arguments:
        print(f"qmix-jax {qmix_jax.__version__}")
        return 0
    command, *rest = arguments
    if "=" in command or command.startswith("-"):
        raise config.ConfigError(
            f"command line: a command comes first; try: qmix-jax train {shlex.join(arguments)}"
        )
    if command in _MEANT:
        raise config.ConfigError(
            f"command line: unknown command {command!r}; use qmix-jax train {_MEANT[command]}"
        )
    if command not in COMMANDS:
        raise config.ConfigError(
            f"command line: unknown command {command!r}; {config.suggest(command, list(COMMANDS))}"
        )
    if {"-h", "--help"} & set(rest):
        print(help_text(command), end="")
        return 0
    module = COMMANDS[command]
    return module.run(module.parser().parse_intermixed_args(rest))
