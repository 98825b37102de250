"""Limits of mixers on a game that they cannot represent, under uniform exploration."""

import functools

import numpy as np
import projection
import pytest

from qmix_jax import components

SMALL = {
    "qmix_lin": {"hypernet_layers": 1},
    "qatten": {"heads": 2, "embed_dim": 8, "hypernet_embed": 8},
    "qmix": {"embed_dim": 8, "hypernet_layers": 1},
    "qmix_ns": {"embed_dim": 8},
    "qplex": {"importance_layers": 1, "hypernet_embed": 8},
}
# Sums of squared errors of the stationary points of monotonic values on Q3, the best one first.
STATIONARY = (288.0, 315.43, 320.0)


@functools.cache
def fit(name):
    module = components.find("mixers", name)
    cfg = module.Config.model_validate(SMALL.get(name, {}))
    mixer = module.make(cfg, projection.game("Q3").spec)
    return projection.fit("Q3", *mixer[:2], learning_rate=0.02, steps=1_000, seeds=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vdn", "vdn_s", "qmix_lin", "qatten"])
def test_additive_values_reach_the_least_squares_fit(name):
    """They are additive given the state: no other additive value is closer to the payoff."""
    learned = fit(name)
    np.testing.assert_allclose(
        learned.tables, np.broadcast_to(learned.additive, (8, 3, 3)), atol=0.02
    )
    np.testing.assert_allclose(learned.squared_error, 455.11, atol=0.01)
    np.testing.assert_array_equal(learned.greedy_payoff, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qmix", "qmix_ns"])
def test_monotonic_values_reach_a_stationary_point(name):
    """Nearly always the one that values every action A at -8 and plays for 0."""
    learned = fit(name)
    distance = np.abs(learned.squared_error[:, None] - np.array(STATIONARY))
    assert (distance.min(axis=1) < 0.5).all()
    usual = np.array([[-8.0, -8, -8], [-8, 0, 0], [-8, 0, 0]])
    reached = np.abs(learned.tables - usual).max(axis=(1, 2)) < 0.3
    assert reached.sum() >= 6
    np.testing.assert_array_equal(learned.greedy_payoff[reached], 0.0)


@pytest.mark.slow
def test_qplex_comes_closer_than_any_monotonic_value():
    """Whether its seeds reach the optimum, too, depends on how fast importance is learnt."""
    assert fit("qplex").squared_error.max() < STATIONARY[0] - 10.0
