"""A mixer of the user's own is one module outside the package, chosen by its dotted path."""

import jax
import numpy as np
import pytest

import qmix_jax
from qmix_jax.cli import composition

OWN = ("experiment=two_step", "algo=vdn", "algo.name=weighted", "algo.mixer.name=toys.weighted")


@pytest.mark.slow
def test_it_trains_and_takes_its_options(tmp_path):
    tiny = ("seeds=2", "trainer.env_steps=400", "eval.every=400")
    mapping = composition.compose(*OWN, "+algo.mixer.options.start=2.0", *tiny)
    result = qmix_jax.train(qmix_jax.load_config(mapping), tmp_path / "run")
    weight = np.asarray(result.parameters["mixer"]["weight"])
    assert weight.shape == (2, 2) and (weight != 2.0).all() and (np.abs(weight - 2.0) < 1.0).all()
    assert len(result.tables) == 3, "joint values are tabulated, as for every mixer"
    assert jax.tree.all(jax.tree.map(lambda x: np.isfinite(x).all(), result.parameters))


def test_a_mistake_in_its_options_is_explained():
    with pytest.raises(qmix_jax.ConfigError, match=r"algo\.mixer\.options\.strat.*start"):
        qmix_jax.load_config(composition.compose(*OWN, "+algo.mixer.options.strat=2.0"))
