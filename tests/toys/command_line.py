"""Runs the command line in this process, on the smallest game."""

from qmix_jax.cli import main

TINY = (
    "experiment=two_step",
    "seeds=1",
    "trainer.env_steps=120",
    "trainer.log_every=60",
    "eval.every=60",
)


def run(*arguments):
    """Returns the exit code of the command line."""
    try:
        return main.main(arguments)
    except SystemExit as stop:
        return stop.code
