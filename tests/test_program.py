"""Building programs; nothing is compiled."""

import pytest

from qmix_jax import config, program


def test_a_large_team_builds():
    """25 agents with 30 actions: nothing may enumerate the joint actions."""
    options = {"id": "HeuristicEnemySMAX", "scenario": "25m"}
    built = program.build(config.load({"env": {"name": "jaxmarl", "options": options}}))
    assert built.spec.n_agents == 25
    assert built.eval_metrics == ("return", "win_rate", "length")


def test_eight_bit_storage_of_an_environment_without_bounds_is_refused():
    mapping = {"env": {"name": "two_step"}, "replay": {"state_dtype": "uint8"}}
    with pytest.raises(config.ConfigError, match="state_dtype=uint8 needs bounds"):
        program.build(config.load(mapping))
