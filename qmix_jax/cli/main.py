"""The `qmix-jax` command: subcommands, exit codes, and the way into Hydra.

Exit codes: 0 done, 1 training failed, 2 the user's mistake (one line on stderr), and where a signal
ended training early, after it was saved: 130 SIGINT (Ctrl-C), 143 SIGTERM, 138 SIGUSR1.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

import hydra
import omegaconf
from hydra import errors, types
from hydra._internal import utils
from hydra.core import hydra_config

import qmix_jax
from qmix_jax import config
from qmix_jax.cli import (
    check_env,
    composition,
    deploy,
    doctor,
    lab,
    launcher,
    render,
    resume,
    search,
)

compose = composition.compose

_HELP = """\
qmix-jax {version}: QMIX and its family, trained end to end in JAX

usage: qmix-jax train [group=choice ...] [key=value ...] [flags]
       qmix-jax plan [the same] [--memory 24GiB]     what that would need; trains nothing
       qmix-jax baseline policy=random [the same] [--json]   how an untrained policy does
       qmix-jax report DIR ... [--out FOLDER]        compares what runs and sweeps came to
       qmix-jax lab [--games A,B] [--algos A,B] [--out FOLDER] [key=value ...]
                                                     algorithms on games with exact solutions
       qmix-jax weights DIR [--member N] [--seed N] [--out FILE]
                                                     a mixer's weights over an episode, as a picture
       qmix-jax evaluate DIR [env.options.key=value] [--episodes N] [--seed N|last] [--seeds N] ...
                                                     how a trained team does, elsewhere too
       qmix-jax render DIR [--episodes N] [--out FOLDER] [env.options.key=value ...]
                                                     greedy episodes as GIF, contact sheet or text
       qmix-jax export DIR [--format stablehlo,numpy] [--platforms cpu,cuda,tpu] [--out FOLDER] ...
                                                     a policy that acts without this package
       qmix-jax rerun DIR [--out FOLDER] [--tolerance X]   repeats a run: are its metrics the same?
       qmix-jax check-env NAME [key=value ...] [--json]
                                                     whether an environment keeps its contract
       qmix-jax doctor [--json] [--no-self-test]     versions, devices, known conflicts, a short run

examples
  qmix-jax train                                     QMIX on SMAX 3m
  qmix-jax train experiment=two_step algo=vdn        a game with known values
  qmix-jax train seeds=8 hparams.learning_rate=1e-3  eight seeds at once
  qmix-jax train -m algo=iql,vdn,qmix                one run after another
  qmix-jax train -m hydra/launcher=fused hparams.gamma=0.9,0.95,0.99   all in one program
  qmix-jax train -m hydra/sweeper=optuna 'hparams.gamma=interval(0.9,0.999)'   a search
  qmix-jax baseline policy=heuristic seeds=8         SMAX 3m, played by a hand-written policy
  qmix-jax report runs/multirun/2025-01-31_12-00-00  a ranking, curves and a page of that sweep
  qmix-jax train -m hydra/launcher=fused_slurm algo=vdn,qmix seed=1,2   a cluster job per program
  qmix-jax train resume=runs/smax_3m/qmix/2025-01-31_12-00-00 trainer.env_steps=1e6   goes on
  qmix-jax train --cfg job                           show every key, run nothing

groups and choices (an experiment sets the others; what you give wins)
{groups}

flags
  -m, --multirun       a run for every combination of comma-separated values
  --cfg job            print the configuration and stop
  --config-dir FOLDER  search a folder of your own for YAML files as well
  --hydra-help         the rest of Hydra's flags
  -h, --help           this text
  --version            the version

flag of baseline
  --json               one line of JSON per configuration instead of a table

flags of evaluate and export
  --parameters KIND    best (each member's best evaluation; the default) or final
  --members 0,1|best   evaluate: whom; by default all   --member N|best   export: by default best
  --json, --out FILE   evaluate: one line of JSON instead of the table, or in a file

flags of report
  --out FOLDER         where to write; by default `report` in the first DIR
  --last N             a score is the mean over a seed's last N evaluations; by default 3
  --resamples N        bootstrap samples of the intervals; by default 2000
  --top N              how many settings figures show, the best ones; by default 10

flags of render
  --episodes N         how many; by default 1
  --seed N             of the episodes; by default 0
  --member N           which of the run's members plays; by default 0
  --parameters NAME    best (by evaluation; the default) or final
  --fps N              frames per second of the GIF, at most 50
  --out FOLDER         where to write, or FILE.gif or FILE.txt; by default `render` in DIR
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: what follows the program's name; None takes the process's own.
    Returns:
      The exit code.
    Raises:
      SystemExit: with the exit code, where Hydra or a job ends the process.
    """
    if arguments is None:  # modules of one's own are found where the command is given
        arguments = sys.argv[1:]
        sys.path.append(os.getcwd())
    try:
        return _dispatch(list(arguments))
    except config.ConfigError as error:
        return _report(error, 2)
    except KeyboardInterrupt:
        return 130


def _dispatch(arguments: list[str]) -> int:
    if not arguments or {"-h", "--help"} & set(arguments):
        print(_help(), end="")
        return 0
    if "--version" in arguments:
        print(f"qmix-jax {qmix_jax.__version__}")
        return 0
    command, *rest = arguments
    if command in _COMMANDS:
        return _COMMANDS[command](rest)
    if "=" in command or command.startswith("-"):
        raise config.ConfigError(
            f"command line: a command comes first; try: qmix-jax train {shlex.join(arguments)}"
        )
    raise config.ConfigError(
        f"command line: unknown command {command!r}; {config.suggest(command, tuple(_COMMANDS))}"
    )


def _help() -> str:
    groups = composition.choices().items()
    lines = (f"  {group:<11} {', '.join(choices)}" for group, choices in groups)
    return _HELP.format(version=qmix_jax.__version__, groups="\n".join(lines))


def _train(arguments: list[str]) -> int:
    """Checks every job, so that mistakes cost nothing, then hands over to Hydra."""
    given = [argument for argument in arguments if argument.startswith("resume=")]
    if given and given[-1] not in ("resume=auto", "resume=null"):
        rest = [argument for argument in arguments if argument not in given]
        return resume.run(given[-1].removeprefix("resume="), rest)
    flags = _flags(arguments)
    if not (flags.hydra_help or flags.shell_completion):
        _check(flags)
    flagged = [] if flags.config_dir is None else ["--config-dir", flags.config_dir]

    started = []
    launcher.failures.clear()

    def job(composed: omegaconf.DictConfig) -> float:
        started.append(composed)
        return _run_job(composed, flagged)

    enter = hydra.main(
        version_base=composition.HYDRA_VERSION_BASE,
        config_path=str(composition.directory()),
        config_name=composition.PRIMARY,
    )(job)
    before = sys.argv
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us as they are
    options = [argument for argument in arguments if argument not in flags.overrides]
    # Hydra reads its arguments from there, and wants overrides in one piece
    sys.argv = ["qmix-jax train", *flags.overrides, *options]
    try:
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
    finally:
        sys.argv = before
    for failure in launcher.failures:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if launcher.failures else 0


def _plan(arguments: list[str]) -> int:
    """Prints what the runs would need together; compiles one member of each program."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.error = _refuse
    parser.add_argument("--memory")
    chosen, rest = parser.parse_known_args(arguments)
    memory = None
    if chosen.memory is not None:
        memory = config.load({"population": {"memory": chosen.memory}}).population.memory
    configs = _check(_flags(rest))
    from qmix_jax import api  # it brings in JAX, which `--help` need not wait for

    api.plan_runs(configs, memory)
    return 0


def _baseline(arguments: list[str]) -> int:
    """Evaluates a policy that is not trained, and prints what it reached."""
    rest = [argument for argument in arguments if argument != "--json"]
    policies = [argument for argument in rest if argument.startswith("policy=")]
    policy = policies[-1].removeprefix("policy=") if policies else "random"
    configs = _check(_flags([argument for argument in rest if argument not in policies]))
    from qmix_jax.console import learning_curves
    from qmix_jax.lab import baseline
    from qmix_jax.runs import storage

    for cfg in configs:
        done = baseline.baseline(cfg, policy)
        if "--json" in arguments:
            print(json.dumps(storage.plain({**done._asdict(), "seed": cfg.seed})))
        else:
            title = f"{done.env}, policy {policy}: {done.episodes} episodes of {cfg.seeds} seed(s)"
            learning_curves.scores(title, done.metrics)
    return 0


def _compare(arguments: list[str]) -> int:
    """Writes the report on what runs came to."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    parser.error = _refuse
    parser.add_argument("directories", nargs="+", metavar="DIR")
    parser.add_argument("--out")
    for name in ("--last", "--resamples", "--top"):
        parser.add_argument(name, type=int)
    qmix_jax.report(**vars(parser.parse_intermixed_args(arguments)))
    return 0


def _lab(arguments: list[str]) -> int:
    """What every algorithm learns on games that can be solved exactly."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.error = _refuse
    for flag in ("--games", "--algos", "--out"):
        parser.add_argument(flag)
    parser.add_argument("overrides", nargs="*")
    lab.run(**vars(parser.parse_intermixed_args(arguments)))
    return 0


def _weights(arguments: list[str]) -> int:
    """Draws what a trained mixer looks at over an episode."""
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    parser.error = _refuse
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--out")
    for name in ("--member", "--seed"):
        parser.add_argument(name, type=int)
    print(f"written to {qmix_jax.weights(**vars(parser.parse_intermixed_args(arguments)))}")
    return 0


def _flags(arguments: list[str]) -> argparse.Namespace:
    """Hydra's own flags and the overrides. Raises: ConfigError for what cannot be honoured."""
    parser = utils.get_args_parser()
    parser.error = _refuse
    flags = parser.parse_intermixed_args(arguments)
    if flags.config_path is not None:
        _refuse("--config-path would hide the package's own files; use --config-dir")
    if flags.experimental_rerun is not None:
        _refuse("--experimental-rerun needs files that runs here do not keep; repeat the command")
    if flags.resolve and flags.cfg is None:
        _refuse("--resolve belongs to --cfg; give both or neither")
    modes = (flags.run, flags.multirun, flags.cfg, flags.info, flags.shell_completion)
    if sum(map(bool, modes)) > 1:
        _refuse("--run, --multirun, --cfg, --info and --shell-completion exclude each other")
    return flags


def _check(flags: argparse.Namespace) -> list[config.ExperimentConfig]:
    """The configuration of every job."""
    jobs = [flags.overrides]
    if "hydra/sweeper=optuna" in flags.overrides:
        jobs = search.check(flags.overrides, flags.config_dir, flags.multirun)
    elif flags.multirun:
        jobs = composition.sweep(flags.overrides, flags.config_dir)
    mappings = (
        composition.compose(
            *overrides,
            config_dir=flags.config_dir,
            config_name=flags.config_name or composition.PRIMARY,
        )
        for overrides in jobs
    )
    configs = [config.load(mapping) for mapping in mappings]
    place = "hydra.sweep.dir=" if flags.multirun else "hydra.run.dir="
    fixed = flags.config_dir or any(text.startswith(place) for text in flags.overrides)
    if any(cfg.resume for cfg in configs) and not fixed:
        raise config.ConfigError(
            f"resume: resume=auto needs {place}FOLDER, the same each time; the default has the "
            "time of day in it"
        )
    return configs


def _run_job(composed: omegaconf.DictConfig, flagged: list[str]) -> float:
    """One training run inside Hydra, to its objective; ends the process where it went wrong."""
    from qmix_jax import api  # these bring in JAX, which `--help` need not wait for
    from qmix_jax.lab import pages
    from qmix_jax.machine import process_group, signals
    from qmix_jax.runs import checkpoint, outcomes

    settings = hydra_config.HydraConfig.get()
    overrides = list(settings.overrides.task)
    if settings.mode == types.RunMode.MULTIRUN:
        print(f"job {settings.job.num}: {' '.join(overrides)}", flush=True)
    try:
        cfg = config.load(composition.resolve(composed))
        result = api.train(
            cfg,
            directory=settings.runtime.output_dir,
            command=shlex.join(["qmix-jax", "train", *flagged, *overrides]),
        )
    except config.ConfigError as error:
        _remove_empty(settings.runtime.output_dir)
        raise SystemExit(_report(error, 2)) from None
    except (outcomes.NonFiniteError, process_group.ProcessError, checkpoint.WriteError) as error:
        raise SystemExit(_report(error, 1)) from None
    pages.print_learnt(result)
    if cfg.population.distributed:  # the run directory may be that of another process
        _remove_empty(settings.runtime.output_dir)
    if result.interrupted:
        raise SystemExit(signals.exit_code())
    return result.objective


def _remove_empty(directory: str) -> None:
    with contextlib.suppress(OSError):  # not empty
        pathlib.Path(directory).rmdir()


def _report(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def _refuse(message: str) -> NoReturn:
    raise config.ConfigError(f"command line: {message}")


_COMMANDS = {
    "train": _train,
    "plan": _plan,
    "baseline": _baseline,
    "report": _compare,
    "lab": _lab,
    "weights": _weights,
    "evaluate": deploy.evaluate,
    "render": render.command,
    "export": deploy.export,
    "rerun": doctor.rerun,
    "check-env": check_env.run,
    "doctor": doctor.doctor,
}
