"""Every kind of environment trains: a few updates, finite numbers, lawful statistics."""

import numpy as np
import pytest
from toys import members

from qmix_jax import components

SMAX = {"id": "HeuristicEnemySMAX"}
ENVS = {
    "smacv2_5_units": {**SMAX, "scenario": "smacv2_5_units"},
    "speaker_listener": {"id": "MPE_simple_speaker_listener_v4"},
    "switch_riddle": {"id": "switch_riddle"},
    "overcooked_v2": {"id": "overcooked_v2", "kwargs": {"max_steps": 20, "agent_view_size": 1}},
    "hanabi": {"id": "hanabi", "kwargs": {"num_colors": 2, "num_ranks": 2, "hand_size": 2}},
    "predator_prey": {"size": 4, "n_agents": 3, "n_prey": 2, "max_steps": 20},
}
# Agents with different observations and actions, each with its own network.
OWN_NETWORKS = {
    "agent": {
        "name": "lstm",
        "options": {"hidden": 8, "sharing": "groups", "unroll": "stacked", "layer_norm": True},
    },
    "precision": "bfloat16",
    "population": {"batching": "vmap", "devices": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVS)
def test_trains(name):
    component = name if name in components.names("envs") else "jaxmarl"
    smax = ENVS[name].get("id") == SMAX["id"]
    code = "uint8" if smax else "float16"
    own_networks = name == "speaker_listener"
    cfg = members.small(
        env={"name": component, "options": ENVS[name]},
        seeds=2,
        replay={"batch_size": 2, "capacity": 6, "obs_dtype": code, "state_dtype": code},
        trainer={"collector": "window", "window": 4} if smax or own_networks else {},
        **(OWN_NETWORKS if own_networks else {}),
    )
    trained = members.train(cfg, calls=(3,))
    for first in trained.metrics.first_nonfinite.values():
        assert (first == members.NEVER).all()
    for leaf in members.leaves(trained.parameters):
        assert np.isfinite(leaf).all()
    if own_networks:
        assert all(leaf.shape[:2] == (2, 2) for leaf in members.leaves(trained.parameters["agent"]))
    evaluation, spec = trained.evaluation, trained.program.spec
    assert 1 <= evaluation["length"][0] <= spec.max_steps
    if spec.name.startswith("HeuristicEnemySMAX"):
        win, returned = evaluation["win_rate"][0], evaluation["return"][0]
        assert 2 * win - 1e-4 <= returned <= 1 + win + 1e-4
