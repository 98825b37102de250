"""The toy `constant`, which cannot be made inside a job of submitit."""

import os

from qmix_jax.envs import base
from toys import constant

Config = constant.Config


def make(cfg: constant.Config) -> base.Env:
    """As `constant.make`, where it works."""
    if "SUBMITIT_EXECUTOR" in os.environ:
        raise RuntimeError("no such toy here\n    and a line that is indented")
    return constant.make(cfg)
