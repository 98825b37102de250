"""Briefly trained runs."""

import pytest
from toys import members

import qmix_jax

TINY = {
    "seeds": 2,
    "trainer": {"env_steps": 240, "warm_up": 36, "log_every": 72},
    "eval": {"every": 72, "episodes": 6},
}


@pytest.fixture(scope="package")
def run_directory(tmp_path_factory):
    """A run of two members."""
    cfg = members.load(**TINY, algo=members.SMALL["algo"])
    return qmix_jax.train(cfg, tmp_path_factory.mktemp("trained") / "run").directory


@pytest.fixture(scope="package")
def sampling_directory(tmp_path_factory):
    """A run of two members that sample their actions, in a one-step game."""
    cfg = members.load(
        **TINY,
        env={"name": "matrix", "options": {"game": None, "payoff": [[0, 1, 5], [2, 7, 3]]}},
        agent={"name": "mlp", "options": {"hidden": 8}},
        algo={"name": "sampling", "algorithm": "toys.sampling"},
    )
    return qmix_jax.train(cfg, tmp_path_factory.mktemp("sampling") / "run").directory
