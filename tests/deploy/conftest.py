"""A run that was really trained, for a moment."""

import pytest
from toys import members

import qmix_jax


@pytest.fixture(scope="package")
def run_directory(tmp_path_factory):
    """Of two members, in an environment whose package is not installed."""
    cfg = members.load(
        seeds=2,
        trainer={"env_steps": 240, "warm_up": 36, "log_every": 72},
        eval={"every": 72, "episodes": 6},
    )
    return qmix_jax.train(cfg, tmp_path_factory.mktemp("trained") / "run").directory
