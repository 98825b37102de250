"""The example environment satisfies the contract and is learnt in seconds."""

import numpy as np
import pytest

import qmix_jax

SETTINGS = {
    "name": "rescue",
    "seeds": 1,
    "env": {"name": "examples.rescue", "options": {"size": 4}},
    "agent": {"name": "mlp"},
    "hparams": {
        "gamma": 0.95,
        "reward_scale": 1.0,
        "learning_rate": 1e-3,
        "epsilon": {"start": 1.0, "end": 0.05, "steps": 40_000.0},
    },
    "trainer": {"env_steps": 80_000, "warm_up": 1_000, "n_envs": 32, "gradient_steps": 16},
    "eval": {"every": 10_000, "episodes": 64},
}


def test_rescue_satisfies_the_env_contract():
    result = qmix_jax.check_env("examples.rescue", {"size": 3}, episodes=4)
    assert result.passed, result.failures()


@pytest.mark.slow
def test_qmix_learns_rescue(tmp_path):
    config = qmix_jax.load_config(SETTINGS)
    (random,) = qmix_jax.baseline(config).metrics["win_rate"]
    result = qmix_jax.train(config, tmp_path / "run")
    rates = result.metrics["eval/win_rate"]
    trained = rates[np.isfinite(rates)][-3:].mean()
    assert random < 0.3
    assert trained > random + 0.4, (random, trained)
