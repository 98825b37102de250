"""Observations (height, width, channels) from the environment to evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import image, members


@pytest.mark.slow
def test_a_run_learns_from_images():
    """Collects, stores in eight bits, samples, learns and evaluates; a network per agent."""
    cfg = members.load(
        env={"name": "toys.image"},
        agent={
            "name": "mlp",
            "options": {
                "hidden": 32,
                "last_action": False,
                "sharing": "none",
                "cnn": {"channels": [8], "features": 32},
            },
        },
        algo={"name": "vdn", "algorithm": "td", "mixer": {"name": "vdn"}},
        hparams={
            "learning_rate": 3e-3,
            "gamma": 0.0,
            "epsilon": {"start": 1, "end": 1, "steps": 1},
        },
        replay={"batch_size": 32, "capacity": 128, "obs_dtype": "uint8"},
        trainer={"collector": "window", "n_envs": 16, "window": 4, "env_steps": 12_000},
    )
    trained = members.train(cfg)
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), trained.states[0].replay)
    assert shapes["obs"] == ((1, 128, 5, 2, *trained.program.spec.obs_shape), jnp.uint8)
    sequence = 5 * (2 * 24 + 2 * 4 + 2 * 3 + 1) + 4 * (2 + 4 + 2) + 2
    assert trained.program.plan.sequence_bytes == sequence
    assert set(np.unique(trained.states[0].replay["obs"])) == {0, 254}
    assert trained.evaluation["return"][0] > 0.9 * image.Config().length
