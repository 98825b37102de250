"""`qmix-jax plan`."""

import argparse

from qmix_jax import config
from qmix_jax.cli import arguments, jobs

SUMMARY = "show the updates, compiled programs and memory of runs, without training"

_EXAMPLES = """\
  qmix-jax plan seeds=16 trainer.n_envs=128
  qmix-jax plan -m algo=qmix,vdn hparams.gamma=0.95,0.99 seeds=8 --memory 24GiB
"""


def parser() -> arguments.Parser:
    command = arguments.Parser(
        "plan",
        "Show the updates, compiled programs and memory, by part, that training would need.",
        "[group=choice ...] [key=value ...] [--memory BYTES] [options]",
        _EXAMPLES,
    )
    command.option(
        "--memory",
        "BYTES",
        "memory to plan for, such as 24GiB (default: population.memory, or that of the devices)",
        default=None,
    )
    arguments.add_overrides(command)
    return command


def run(options: argparse.Namespace) -> int:
    memory = None
    if options.memory is not None:
        memory = config.load({"population": {"memory": options.memory}}).population.memory
    configs = jobs.configs(options)
    from qmix_jax import api  # imports JAX, for which `--help` need not wait

    api.plan_runs(configs, memory)
    return 0
