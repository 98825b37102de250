"""`qmix-jax train`."""

import argparse
import contextlib
import os
import pathlib
import sys
import textwrap
from collections.abc import Iterator

import hydra
import omegaconf
from hydra import errors
from hydra.core import hydra_config
from hydra.types import RunMode

from qmix_jax import config
from qmix_jax.cli import arguments, composition, jobs, launcher, resume

SUMMARY = "train one or more runs"

_EXAMPLES = """\
  qmix-jax train                              QMIX on SMAX 3m, two seeds
  qmix-jax train experiment=smax_2s3z algo=vdn seeds=4
  qmix-jax train experiment=two_step hparams.learning_rate=1e-3
  qmix-jax train -m algo=iql,vdn,qmix         one run after another
  qmix-jax train -m hydra/launcher=fused hparams.gamma=0.9,0.95,0.99
                                              in one compiled program
  qmix-jax train -m hydra/sweeper=optuna 'hparams.gamma=interval(0.9,0.999)'
                                              a search
  qmix-jax train resume=runs/smax_3m/qmix/2026-01-31_12-00-00 trainer.env_steps=1e6
                                              resume a run or a sweep
  qmix-jax train --config-dir my_configs experiment=mine
  qmix-jax train --cfg job                    print every key and its value
"""


def parser() -> arguments.Parser:
    usage = (
        "[group=choice ...] [key=value ...] [options]\n"
        "       qmix-jax train resume=DIR [key=value ...]"
    )
    command = arguments.Parser("train", _description(), usage, _EXAMPLES)
    add = arguments.add_overrides(command)
    about = "print a configuration and exit: job, hydra or all"
    add("-c", "--cfg", metavar="WHAT", choices=("job", "hydra", "all"), help=about)
    add("-p", "--package", metavar="KEY", help="with --cfg: print one section")
    add("--resolve", help="with --cfg: resolve interpolations")
    about = "explain the composition and exit: all, config, defaults, defaults-tree, plugins or "
    about += "searchpath"
    add("-i", "--info", metavar="TOPIC", nargs="?", const="all", help=about)
    add("-r", "--run", help="a single run (the default)")
    add("-sc", "--shell-completion", help="install shell completion (see --hydra-help)")
    add("--hydra-help", help="print Hydra's help and exit")
    return command


def _description() -> str:
    """Returns the summary and the choices of every config group."""
    groups = [
        textwrap.fill(", ".join(choices), 78, initial_indent=f"  {group:<12}",
                      subsequent_indent=" " * 14)
        for group, choices in composition.choices().items()
    ]  # fmt: skip
    return "\n".join(
        (
            "Train one run, or with -m one run per combination of values.",
            "",
            "choices of config groups (an experiment sets the others; your choices override it):",
            *groups,
        )
    )


def run(options: argparse.Namespace) -> int:
    resumed = [text for text in options.overrides if text.startswith("resume=")]
    if resumed and resumed[-1] not in ("resume=auto", "resume=null"):
        options.overrides = [text for text in options.overrides if text not in resumed]
        return _resume(resumed[-1].removeprefix("resume="), options)
    _check(options)
    if not (options.hydra_help or options.shell_completion):
        jobs.configs(options)  # a mistake in any job is reported before the first one starts
    launcher.failures.clear()
    _run_hydra(options)
    for failure in launcher.failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if launcher.failures else 0


def _resume(directory: str, options: argparse.Namespace) -> int:
    for name, value in vars(options).items():
        if value and name != "overrides":
            raise config.ConfigError(
                f"command line: --{name.replace('_', '-')} cannot be combined with resume=DIR, "
                "which repeats the original command; give key=value only"
            )
    return resume.run(directory, options.overrides)


def _check(options: argparse.Namespace) -> None:
    """Raises: ConfigError for Hydra options that exclude each other."""
    modes = ("run", "multirun", "cfg", "info", "shell_completion")
    if sum(bool(getattr(options, mode)) for mode in modes) > 1:
        raise config.ConfigError(
            "command line: --run, --multirun, --cfg, --info and --shell-completion exclude each "
            "other"
        )
    if options.resolve and options.cfg is None:
        raise config.ConfigError("command line: --resolve needs --cfg; add --cfg job")


def _run_hydra(options: argparse.Namespace) -> None:
    started = []

    def job(composed: omegaconf.DictConfig) -> float:
        started.append(composed)
        return _train(composed)

    first, second = arguments.sources(options).folders()
    flags = ("multirun", "run", "resolve", "hydra_help", "shell_completion")
    words = [f"--{flag.replace('_', '-')}" for flag in flags if getattr(options, flag)]
    values = {name: getattr(options, name) for name in ("cfg", "package", "info")}
    values["config-dir"] = second
    words += [word for name, value in values.items() if value for word in (f"--{name}", value)]
    name = options.config_name or composition.PRIMARY
    enter = hydra.main(first, name, composition.HYDRA_VERSION_BASE)(job)
    try:
        with _process_arguments([*options.overrides, *words]):
            enter()
    except errors.HydraException as error:
        if started:
            raise
        raise config.ConfigError(f"config: {' '.join(str(error).split())}") from error
    except OSError as error:
        if started:
            raise
        raise config.ConfigError(
            f"run directory: cannot create {error.filename!r} ({error.strerror}); "
            "choose another hydra.run.dir"
        ) from error


@contextlib.contextmanager
def _process_arguments(values: list[str]) -> Iterator[None]:
    """Sets the arguments that `hydra.main` reads; exceptions pass through it unchanged."""
    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["qmix-jax train", *values], "1"
    try:
        yield
    finally:
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before[1]


def _train(composed: omegaconf.DictConfig) -> float:
    """Trains one run inside Hydra and returns its objective; ends the process if it fails."""
    from qmix_jax import api  # imports JAX, for which `--help` need not wait
    from qmix_jax.lab import pages
    from qmix_jax.machine import process_group, signals
    from qmix_jax.runs import checkpoint, outcomes

    settings = hydra_config.HydraConfig.get()
    overrides = list(settings.overrides.task)
    if settings.mode == RunMode.MULTIRUN:
        print(f"job {settings.job.num}: {' '.join(overrides)}", flush=True)
    directory = settings.runtime.output_dir
    try:
        cfg = config.load(composition.resolve(composed))
        command = composition.command(settings, overrides)
        result = api.train(cfg, directory=directory, command=command)
    except config.ConfigError as error:
        _remove_if_empty(directory)
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (outcomes.NonFiniteError, process_group.ProcessError, checkpoint.WriteError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    pages.print_learnt(result)
    if cfg.population.distributed:  # process 0 may write elsewhere
        _remove_if_empty(directory)
    if result.interrupted:
        raise SystemExit(signals.exit_code())
    return result.objective


def _remove_if_empty(directory: str) -> None:
    with contextlib.suppress(OSError):  # not empty
        pathlib.Path(directory).rmdir()
